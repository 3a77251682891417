// The regular expressions by which known families cut a text into words, written out: each is as fast as reading the
// text, and takes the same characters for letters as PyPI's tokenizers does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

namespace rankfold {

// A part of a text that a pattern matches, or one between two that it matches.
struct Match {
  uint32_t begin = 0, end = 0;  // bytes
  bool is_match = false;
};

// Appends the parts of a text, in order, which together are the whole text.
using Scanner = void (*)(std::string_view text, std::vector<Match>& parts);

// Null for a regular expression that is none of those known. The texts are UTF-8.
Scanner known_scanner(std::string_view regex);
extern const std::string_view kByteLevelRegex;  // of the pre-tokenizer ByteLevel
std::vector<std::string_view> known_regexes();  // for tests

}  // namespace rankfold
