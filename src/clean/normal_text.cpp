#include "clean/normal_text.h"

#include "text/python_characters.h"
#include "text/unicode.h"

#include <algorithm>
#include <cstring>

namespace rankfold {
namespace {

// The character as it is compared.
uint32_t narrow(uint32_t c) { return c >= 0xFF01 && c <= 0xFF5E ? c - 0xFEE0 : c == 0x3000 ? ' ' : c; }

// Unicode's white space, and the separators of ASCII.
bool is_space(uint32_t c) {
  if (c < 0x80) return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1C && c <= 0x1F);
  if (c > 0x3000) return false;
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
         c == 0x202F || c == 0x205F || c == 0x3000;
}

// All bits of a product depend on all bits of its factors.
uint64_t folded(uint64_t a, uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// splitmix64's last step.
uint64_t mixed(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

uint32_t lower(uint32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
  if (columns_of_character(c) == 2) return c;  // no cases there
  thread_local std::string text;
  text.clear();
  python::append_cased(c, python::Case::kLower, text);
  uint32_t length = 0;
  return unicode::character_at(text.data(), length);  // all but one character become one
}

}  // namespace

uint32_t columns_of_character(uint32_t c) {
  if (c < 0x1100) return 1;
  const bool is_wide = c <= 0x115F || (c >= 0x2E80 && c <= 0xA4CF && c != 0x303F) || (c >= 0xAC00 && c <= 0xD7A3) ||
                       (c >= 0xF900 && c <= 0xFAFF) || (c >= 0xFE30 && c <= 0xFE4F) || (c >= 0xFF00 && c <= 0xFF60) ||
                       (c >= 0xFFE0 && c <= 0xFFE6) || (c >= 0x1F300 && c <= 0x1FAFF) || (c >= 0x20000 && c <= 0x3FFFD);
  return is_wide ? 2 : 1;
}

size_t count_columns(std::string_view text) {
  size_t columns = 0;
  for (size_t at = 0; at < text.size();) columns += columns_of_character(unicode::next_character(text, at));
  return columns;
}

std::string normal_text(std::string_view text) {
  std::string normal;
  normal.reserve(text.size());
  bool is_apart = false;  // white space came since the last character
  size_t copied = 0;      // of the text; what is left out or changed ends a piece that is copied at once
  const auto copy_to = [&](size_t end) { normal.append(text, copied, end - copied); };
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const uint32_t c = unicode::next_character(text, at), narrowed = narrow(c);
    const bool goes = is_unseen(c), apart = is_space(narrowed);
    if (!goes && !apart && narrowed == c && !is_apart) continue;
    copy_to(begin);
    copied = at;
    if (goes) continue;
    if (apart) {
      is_apart = true;
      continue;
    }
    if (is_apart && !normal.empty()) normal.push_back(' ');
    is_apart = false;
    if (narrowed == c)
      copied = begin;
    else
      normal.push_back(static_cast<char>(narrowed));
  }
  copy_to(text.size());
  return normal;
}

TextHash text_hash(std::string_view text) {
  TextHash hash{0x9E3779B97F4A7C15u ^ text.size(), 0xC2B2AE3D27D4EB4Fu + text.size()};
  for (size_t at = 0; at < text.size(); at += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + at, std::min(sizeof word, text.size() - at));
    hash.high = folded(hash.high ^ word, 0xA0761D6478BD642Fu) + 0x8EBC6AF09C88C6E3u;
    hash.low = folded(hash.low + word, 0xE7037ED1A0B428DBu) ^ (hash.low << 1 | 1);
  }
  return {mixed(hash.high), mixed(hash.low ^ hash.high)};
}

std::vector<uint64_t> shingles(std::string_view text) {
  thread_local std::vector<uint32_t> characters;
  characters.clear();
  for (size_t at = 0; at < text.size() && characters.size() < kMostShingles;) {
    const uint32_t c = unicode::next_character(text, at), narrowed = narrow(c);
    if (!is_unseen(c) && !is_space(narrowed)) characters.push_back(lower(narrowed));
  }
  std::vector<uint64_t> pieces;
  if (characters.empty()) return pieces;
  pieces.reserve(characters.size());
  const auto piece = [](size_t begin, size_t end) {
    uint64_t hash = end - begin;
    for (size_t i = begin; i < end; ++i) hash = (hash ^ characters[i]) * 0x9FB21C651E98DF25u + (hash >> 29);
    return mixed(hash);
  };
  uint32_t columns = 0;  // of [begin, end)
  for (size_t begin = 0, end = 0; begin < characters.size(); ++begin) {
    while (end < characters.size() && columns < kShingleColumns) columns += columns_of_character(characters[end++]);
    if (columns < kShingleColumns && begin > 0) break;
    pieces.push_back(piece(begin, end));
    columns -= columns_of_character(characters[begin]);
  }
  return pieces;
}

void make_set(std::vector<uint64_t>& shingles) {
  std::sort(shingles.begin(), shingles.end());
  shingles.erase(std::unique(shingles.begin(), shingles.end()), shingles.end());
}

double jaccard(std::span<const uint64_t> a, std::span<const uint64_t> b) {
  if (a.empty() && b.empty()) return 1;
  size_t common = 0;
  for (size_t i = 0, k = 0; i < a.size() && k < b.size();) {
    common += a[i] == b[k];
    const bool first = a[i] <= b[k], second = b[k] <= a[i];
    i += first, k += second;
  }
  return static_cast<double>(common) / static_cast<double>(a.size() + b.size() - common);
}

}  // namespace rankfold
