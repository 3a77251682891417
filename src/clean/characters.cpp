#include "clean/characters.h"

#include "text/gbk.h"
#include "text/unicode.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace rankfold {
namespace {

// What Windows-1252 has where Latin-1 has controls.
constexpr std::pair<uint16_t, uint8_t> kWindows1252[] = {
    {0x0152, 0x8C}, {0x0153, 0x9C}, {0x0160, 0x8A}, {0x0161, 0x9A}, {0x0178, 0x9F}, {0x017D, 0x8E}, {0x017E, 0x9E},
    {0x0192, 0x83}, {0x02C6, 0x88}, {0x02DC, 0x98}, {0x2013, 0x96}, {0x2014, 0x97}, {0x2018, 0x91}, {0x2019, 0x92},
    {0x201A, 0x82}, {0x201C, 0x93}, {0x201D, 0x94}, {0x201E, 0x84}, {0x2020, 0x86}, {0x2021, 0x87}, {0x2022, 0x95},
    {0x2026, 0x85}, {0x2030, 0x89}, {0x2039, 0x8B}, {0x203A, 0x9B}, {0x20AC, 0x80}, {0x2122, 0x99}};

// The byte that a Western reader takes for this character; 0: none.
uint8_t western_byte(uint32_t c) {
  if (c >= 0x80 && c <= 0xFF) return static_cast<uint8_t>(c);
  const auto found = std::lower_bound(std::begin(kWindows1252), std::end(kWindows1252), c,
                                      [](const auto& entry, uint32_t wanted) { return entry.first < wanted; });
  return found != std::end(kWindows1252) && found->first == c ? found->second : 0;
}

bool is_tail(uint8_t byte) { return byte >= 0x80 && byte <= 0xBF; }

// The character of two to four bytes of UTF-8 that begins at `at`, and its length; {0, 1} where none does.
std::pair<uint32_t, size_t> utf8_at(const std::vector<uint8_t>& bytes, size_t at) {
  const uint8_t lead = bytes[at];
  const size_t length = lead >= 0xC2 && lead <= 0xDF   ? 2
                        : lead >= 0xE0 && lead <= 0xEF ? 3
                        : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                       : 0;
  if (length == 0 || at + length > bytes.size()) return {0, 1};
  uint32_t character = lead & (0xFFu >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if (!is_tail(bytes[at + i])) return {0, 1};
    character = character << 6 | (bytes[at + i] & 0x3F);
  }
  constexpr std::array<uint32_t, 5> kLeast = {0, 0, 0x80, 0x800, 0x10000};
  const bool is_surrogate = character >= 0xD800 && character <= 0xDFFF;
  return character >= kLeast[length] && character <= 0x10FFFF && !is_surrogate ? std::pair{character, length}
                                                                               : std::pair{uint32_t{0}, size_t{1}};
}

bool is_chinese_or_punctuation(uint32_t c) {
  return (c >= 0x2E80 && c <= 0x9FFF) || (c >= 0xFF00 && c <= 0xFFEF) || (c >= 0x2010 && c <= 0x2026) || c == 0xFFFD;
}

// Of neighbouring characters that a Western reader makes of bytes beyond ASCII: UTF-8, or GBK.
class WesternRun {
 public:
  void add(uint32_t c) {
    bytes_.push_back(western_byte(c));
    characters_.push_back(c);
  }
  // Points: a character of three bytes hardly comes about by chance, two bytes do now and then.
  int end() {
    int points = 0;
    for (size_t at = 0; at < bytes_.size();) {
      const auto [character, length] = utf8_at(bytes_, at);
      if (length > 2) points += 2;
      // Quotes, dashes and the ellipsis follow a capital in sound text.
      if (length == 2 && !(characters_[at + 1] >= 0x2013 && characters_[at + 1] <= 0x2026)) ++points;
      at += length;
    }
    if (is_gbk()) points += 2;
    bytes_.clear();
    characters_.clear();
    return points;
  }

 private:
  bool is_gbk() const {
    constexpr size_t kLeast = 6;
    if (bytes_.size() < kLeast || bytes_.size() % 2 != 0) return false;
    bool counts_up = true;  // an alphabet
    for (size_t i = 0; i < bytes_.size(); ++i) {
      if (i > 0) counts_up = counts_up && bytes_[i] == bytes_[i - 1] + 1;
      if (i % 2 == 1 && !gbk::is_frequent(static_cast<uint16_t>(bytes_[i - 1] << 8 | bytes_[i]))) return false;
    }
    return !counts_up;
  }
  std::vector<uint8_t> bytes_;
  std::vector<uint32_t> characters_;
};

// Of neighbouring characters beyond ASCII, as the bytes that they have in GBK.
class ChineseRun {
 public:
  void add(uint32_t c) {
    const uint16_t pair = gbk::encode(c);
    bytes_.push_back(static_cast<uint8_t>(pair >> 8));  // 0 for what GBK lacks: no part of UTF-8 beyond ASCII
    if (pair != 0) bytes_.push_back(static_cast<uint8_t>(pair & 0xFF));
  }
  // Chinese text in GBK is, by chance, UTF-8 of Chinese characters in one of a hundred places.
  bool end() {
    constexpr size_t kLeast = 3;
    size_t characters = 0, covered = 0;
    for (size_t at = 0; at < bytes_.size();) {
      const auto [character, length] = utf8_at(bytes_, at);
      if (length == 3 && is_chinese_or_punctuation(character)) ++characters, covered += length;
      at += length;
    }
    const bool is_utf8 = characters >= kLeast && 5 * covered >= 3 * bytes_.size();
    bytes_.clear();
    return is_utf8;
  }

 private:
  std::vector<uint8_t> bytes_;
};

}  // namespace

bool is_mojibake(std::string_view text) {
  for (const char* sign : {"锟斤拷", "烫烫烫烫", "屯屯屯屯"})
    if (text.find(sign) != std::string_view::npos) return true;
  thread_local WesternRun western;
  thread_local ChineseRun chinese;
  int points = 0;
  bool found = false, is_western = false, is_chinese = false;
  const auto end_western = [&] {
    if (std::exchange(is_western, false)) points += western.end();
  };
  const auto end_chinese = [&] {
    if (std::exchange(is_chinese, false)) found = chinese.end() || found;
  };
  for (size_t at = 0; at < text.size();) {
    if (static_cast<unsigned char>(text[at]) < 0x80) {
      ++at;
      end_western();
      end_chinese();
      continue;
    }
    const uint32_t c = unicode::next_character(text, at);
    if (western_byte(c) != 0) {
      western.add(c);
      is_western = true;
    } else {
      end_western();
    }
    chinese.add(c);
    is_chinese = true;
  }
  end_western();
  end_chinese();
  return found || points >= 2;
}

void CharacterFaults::add(const CharacterFaults& more) {
  control += more.control;
  replacement += more.replacement;
  private_use += more.private_use;
  is_mojibake = is_mojibake || more.is_mojibake;
}

CharacterFaults find_character_faults(std::string_view text) {
  CharacterFaults faults;
  bool is_ascii = true;
  for (size_t at = 0; at < text.size();) {
    const auto byte = static_cast<unsigned char>(text[at]);
    if (byte < 0x80) {
      faults.control += (byte < 0x20 && byte != '\t' && byte != '\n' && byte != '\r') || byte == 0x7F;
      ++at;
      continue;
    }
    is_ascii = false;
    const uint32_t c = unicode::next_character(text, at);
    faults.control += (c >= 0x80 && c <= 0x9F) || (c >= 0xFDD0 && c <= 0xFDEF) || (c & 0xFFFE) == 0xFFFE;
    faults.replacement += c == 0xFFFD;
    faults.private_use += (c >= 0xE000 && c <= 0xF8FF) || (c >= 0xF0000 && c <= 0x10FFFD && (c & 0xFFFE) != 0xFFFE);
  }
  if (!is_ascii) faults.is_mojibake = is_mojibake(text);
  return faults;
}

}  // namespace rankfold
