#include "text/nfc.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

namespace rankfold {
namespace {

using namespace unicode;

// Hangul syllables are computed: first consonant, vowel, last consonant.
constexpr uint32_t kSyllable = 0xAC00, kFirst = 0x1100, kVowel = 0x1161, kLast = 0x11A7;
constexpr uint32_t kFirsts = 19, kVowels = 21, kLasts = 28, kSyllables = kFirsts * kVowels * kLasts;

class NormalForms {
 public:
  static const NormalForms& get() {
    static const NormalForms forms;
    return forms;
  }

  // Appends what it is made of.
  void decompose(uint32_t c, std::u32string& parts) const {
    if (c - kSyllable < kSyllables) {
      const uint32_t index = c - kSyllable, last = index % kLasts;
      parts.push_back(kFirst + index / (kVowels * kLasts));
      parts.push_back(kVowel + index / kLasts % kVowels);
      if (last > 0) parts.push_back(kLast + last);
      return;
    }
    const auto found = decompositions_.find(c);
    if (found == decompositions_.end()) {
      parts.push_back(c);
      return;
    }
    decompose(found->second.first, parts);
    if (found->second.second != 0) parts.push_back(found->second.second);
  }

  uint32_t compose(uint32_t first, uint32_t second) const {  // 0: they do not
    if (first - kFirst < kFirsts && second - kVowel < kVowels)
      return kSyllable + ((first - kFirst) * kVowels + second - kVowel) * kLasts;
    if (first - kSyllable < kSyllables && (first - kSyllable) % kLasts == 0 && second > kLast &&
        second < kLast + kLasts)
      return first + second - kLast;
    const auto found = compositions_.find(uint64_t{first} << 32 | second);
    return found == compositions_.end() ? 0 : found->second;
  }

  uint32_t combining_class(uint32_t c) const {
    const auto found = combining_.find(c);
    return found == combining_.end() ? 0 : found->second;
  }

 private:
  NormalForms() {
    for (size_t i = 0; i < kDecompositionCount; ++i) {
      const uint32_t *row = kDecompositions + 4 * i, c = row[0], first = row[1], second = row[2];
      decompositions_[c] = {first, second};
      if (row[3] != 0) compositions_[uint64_t{first} << 32 | second] = c;
    }
    for (size_t i = 0; i < kCombiningCount; ++i)
      for (uint32_t k = 0; k < kCombining[3 * i + 1]; ++k) combining_[kCombining[3 * i] + k] = kCombining[3 * i + 2];
  }

  std::unordered_map<uint32_t, std::pair<uint32_t, uint32_t>> decompositions_;
  std::unordered_map<uint64_t, uint32_t> compositions_;
  std::unordered_map<uint32_t, uint32_t> combining_;
};

// Characters that cannot be told apart from what surrounds them, in NFC.
std::string compose(std::string_view cluster) {
  const NormalForms& forms = NormalForms::get();
  std::u32string parts;
  for (size_t i = 0; i < cluster.size();) {
    uint32_t length = 0;
    forms.decompose(character_at(cluster.data() + i, length), parts);
    i += length;
  }
  std::vector<std::pair<uint32_t, uint32_t>> marked;  // class, character
  for (const uint32_t c : parts) marked.emplace_back(forms.combining_class(c), c);
  for (auto begin = marked.begin(); begin != marked.end();) {
    const auto end = std::find_if(begin + 1, marked.end(), [](const auto& mark) { return mark.first == 0; });
    std::stable_sort(begin, end, [](const auto& a, const auto& b) { return a.first < b.first; });
    begin = end;
  }

  std::u32string composed;
  size_t starter = SIZE_MAX;  // the character in `composed` that others join
  uint32_t last = 0;          // class of the last character behind it
  for (const auto& [combining, c] : marked) {
    if (starter != SIZE_MAX && (last < combining || last == 0))
      if (const uint32_t both = forms.compose(composed[starter], c); both != 0) {
        composed[starter] = both;
        continue;
      }
    if (combining == 0) starter = composed.size();
    last = combining;
    composed.push_back(c);
  }
  std::string text;
  for (const uint32_t c : composed) append(c, text);
  return text;
}

}  // namespace

bool to_nfc(const Piece& piece, AlignedText& changed) {
  const Properties& properties = Properties::get();
  const std::string_view text = piece.text;
  size_t kept = 0;         // what stands before has been appended
  size_t last_stable = 0;  // where a group of characters begins that depend on one another
  uint32_t length = 0;
  bool is_changed = false;
  for (size_t i = 0; i < text.size();) {
    if (properties.at(text.data() + i, length) & kStable) {
      last_stable = i;
      i += length;
      continue;
    }
    const size_t begin = last_stable;
    while (i < text.size() && !(properties.at(text.data() + i, length) & kStable)) i += length;
    last_stable = i;
    const std::string_view before = text.substr(begin, i - begin);
    const std::string after = compose(before);
    if (after == before) continue;
    if (!is_changed) changed.clear();
    is_changed = true;
    changed.append(piece.part(kept, begin));
    changed.append(after, piece.range(begin, i));
    kept = i;
  }
  if (is_changed) changed.append(piece.part(kept, text.size()));
  return is_changed;
}

}  // namespace rankfold
