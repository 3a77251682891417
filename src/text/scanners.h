// Hand-written scanners for the regular expressions with which known model families split text into words. Each runs
// about as fast as reading the text, and has the letters of the Python package tokenizers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

namespace rankfold {

// A part of a text: a match of a pattern, or the text between two matches.
struct Match {
  uint32_t begin = 0, end = 0;  // bytes
  bool is_match = false;
};

// Appends the parts of a text in order. Together they are the whole text.
using Scanner = void (*)(std::string_view text, std::vector<Match>& parts);

// Returns the scanner for a regular expression; null: it is not a known one. Texts are UTF-8.
Scanner known_scanner(std::string_view regex);
extern const std::string_view kByteLevelRegex;  // of the pre-tokenizer ByteLevel
std::vector<std::string_view> known_regexes();  // for tests

}  // namespace rankfold
