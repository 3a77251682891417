#include "eval/answer_metrics.h"

#include "text/python_characters.h"
#include "text/unicode.h"

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <utility>

namespace rankfold {
namespace {

// Scripts that write no spaces between words: first and last character of each range.
constexpr std::pair<uint32_t, uint32_t> kUnspaced[] = {
    {0x0E00, 0x0EFF},    // Thai, Lao
    {0x1000, 0x109F},    // Burmese
    {0x1780, 0x17FF},    // Khmer
    {0x3005, 0x3007},    // marks of repetition, zero
    {0x3040, 0x30FF},    // kana
    {0x31F0, 0x31FF},    // kana
    {0x3400, 0x4DBF},    // Han
    {0x4E00, 0x9FFF},    // Han
    {0xF900, 0xFAFF},    // Han
    {0xFF66, 0xFF9F},    // kana of half width
    {0x20000, 0x3FFFF},  // Han
};

bool is_unspaced(uint32_t c) {
  return std::any_of(std::begin(kUnspaced), std::end(kUnspaced),
                     [c](const auto& range) { return c >= range.first && c <= range.second; });
}

std::string spaced_once(std::string_view text) {
  std::string result;
  bool space = false;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    if (python::is_space(unicode::next_character(text, at))) {
      space = true;
      continue;
    }
    if (space && !result.empty()) result += ' ';
    space = false;
    result += text.substr(begin, at - begin);
  }
  return result;
}

// 2 c / (a + r), where there is something to divide by.
double f1(int64_t common, int64_t a, int64_t r) {
  if (a + r == 0) return 1;
  return 2.0 * static_cast<double>(common) / static_cast<double>(a + r);
}

// Numbers for the words, the same in both texts.
std::pair<std::vector<size_t>, std::vector<size_t>> numbered(std::string_view a, std::string_view b) {
  std::unordered_map<std::string, size_t> numbers;
  const auto number = [&numbers](std::string_view text) {
    std::vector<size_t> list;
    for (TextWord& word : words_of(text))
      list.push_back(numbers.emplace(std::move(word.text), numbers.size()).first->second);
    return list;
  };
  std::vector<size_t> first = number(a);
  return {std::move(first), number(b)};
}

// The length of the longest common subsequence, 64 places of `b` at a time: bit j of `row` is 0 where the length grows at
// place j (Hyyro's form of Allison and Dix, 2004).
int64_t longest_common(const std::vector<size_t>& a, const std::vector<size_t>& b) {
  std::unordered_map<size_t, std::vector<size_t>> places;  // of the words of b
  for (size_t j = 0; j < b.size(); ++j) places[b[j]].push_back(j);
  std::vector<uint64_t> row((b.size() + 63) / 64, ~uint64_t{0}), match(row.size());
  for (const size_t word : a) {
    const auto found = places.find(word);
    if (found == places.end()) continue;
    for (const size_t j : found->second) match[j / 64] |= uint64_t{1} << j % 64;
    uint64_t carry = 0;
    for (size_t w = 0; w < row.size(); ++w) {
      const uint64_t both = row[w] & match[w], sum = row[w] + both, total = sum + carry;
      carry = (sum < both) | (total < carry);
      row[w] = total | (row[w] & ~match[w]);
    }
    for (const size_t j : found->second) match[j / 64] = 0;
  }
  int64_t length = 0;
  for (size_t j = 0; j < b.size(); ++j) length += (row[j / 64] >> j % 64 & 1) == 0;
  return length;
}

}  // namespace

std::vector<TextWord> words_of(std::string_view text) {
  using namespace unicode;
  const Properties& properties = Properties::get();
  std::vector<TextWord> words;
  bool grows = false;  // the last word
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const uint32_t c = next_character(text, at);
    const uint16_t is = properties.of(c);
    const bool is_letter = is & (kLetter | kNumber | kMark);
    const bool stands_alone = is_letter ? is_unspaced(c) : (is & kSymbol) && !(is & unicode::kPunctuation);
    if (!is_letter && !stands_alone) {
      grows = false;
      continue;
    }
    if (!grows || stands_alone) words.push_back({.text = {}, .begin = begin});
    python::append_cased(c, python::Case::kLower, words.back().text);
    words.back().end = at;
    grows = !stands_alone;
  }
  return words;
}

bool exact_match(std::string_view answer, std::string_view reference) {
  return spaced_once(answer) == spaced_once(reference);
}

double char_f1(std::string_view answer, std::string_view reference) {
  std::unordered_map<uint32_t, int64_t> counts;
  int64_t a = 0, r = 0, common = 0;
  for (const TextWord& word : words_of(reference))
    for (size_t at = 0; at < word.text.size(); ++r) ++counts[unicode::next_character(word.text, at)];
  for (const TextWord& word : words_of(answer))
    for (size_t at = 0; at < word.text.size(); ++a) common += counts[unicode::next_character(word.text, at)]-- > 0;
  return f1(common, a, r);
}

double rouge_l(std::string_view answer, std::string_view reference) {
  const auto [a, r] = numbered(answer, reference);
  return f1(longest_common(a, r), static_cast<int64_t>(a.size()), static_cast<int64_t>(r.size()));
}

}  // namespace rankfold
