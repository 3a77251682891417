// Character classes of the Python package tokenizers and of Python, from the tables of unicode_tables.cpp. Also
// functions that read valid UTF-8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold::unicode {

// Classes of the package tokenizers. Those up to kLower are general categories of Unicode 16, as in its regular
// expressions.
enum Property : uint16_t {
  kLetter = 1 << 0,
  kNumber = 1 << 1,
  kSpace = 1 << 2,    // \s, the same as Unicode's white space
  kLineEnd = 1 << 3,  // \r and \n
  kMark = 1 << 4,
  kSymbol = 1 << 5,  // \p{P} and \p{S}
  kUpper = 1 << 6,   // \p{Lu} and \p{Lt}
  kLower = 1 << 7,
  kNumeric = 1 << 8,      // split by the pre-tokenizer Digits
  kPunctuation = 1 << 9,  // split by the pre-tokenizer Punctuation
  kWord = 1 << 10,        // a token with single_word is not found next to it
  kStable = 1 << 11,      // unchanged by NFC in any context, and nothing is reordered across it
};

inline constexpr uint32_t kCharacters = 0x110000;

class Properties {
 public:
  // Built by the first call.
  static const Properties& get();
  static const Properties& of_python();  // text/python_characters.h
  uint16_t of(uint32_t character) const { return pages_[page_of_[character >> 8] << 8 | (character & 0xFF)]; }
  // Properties of the character that begins at `text`. Sets `length` to its number of bytes.
  uint16_t at(const char* text, uint32_t& length) const;

 private:
  Properties(const uint32_t* runs, size_t count);
  std::vector<uint16_t> pages_;  // the distinct pages of 256 characters
  uint16_t page_of_[kCharacters >> 8];
};

inline uint32_t length_of(char first_byte) {
  const auto byte = static_cast<unsigned char>(first_byte);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}
inline bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

inline uint32_t character_at(const char* text, uint32_t& length) {
  const auto byte = [text](int i) { return uint32_t{static_cast<unsigned char>(text[i])}; };
  length = length_of(*text);
  switch (length) {
    case 1:
      return byte(0);
    case 2:
      return (byte(0) & 0x1F) << 6 | (byte(1) & 0x3F);
    case 3:
      return (byte(0) & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    default:
      return (byte(0) & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
  }
}

inline uint16_t Properties::at(const char* text, uint32_t& length) const {
  const auto byte = static_cast<unsigned char>(*text);
  if (byte < 0x80) {
    length = 1;
    return pages_[byte];  // the first page is the first 256 characters'
  }
  return of(character_at(text, length));
}

void append(uint32_t character, std::string& text);

// Returns the character at `at`, and moves `at` to the next one.
inline uint32_t next_character(std::string_view text, size_t& at) {
  uint32_t length = 0;
  const uint32_t character = character_at(text.data() + at, length);
  at += length;
  return character;
}

// Returns the character before `at`, and moves `at` to its first byte.
inline uint32_t previous_character(std::string_view text, size_t& at) {
  do --at;
  while (is_continuation(text[at]));
  uint32_t length = 0;
  return character_at(text.data() + at, length);
}

size_t count_characters(std::string_view text);
// Position of the character `count` characters after `from`; text.size() beyond the end.
size_t skip_characters(std::string_view text, size_t count, size_t from = 0);

// The tables.
extern const uint32_t kRuns[], kDecompositions[], kCombining[], kPythonRuns[], kCaseShifts[], kLongerCases[];
extern const size_t kRunCount, kDecompositionCount, kCombiningCount, kPythonRunCount, kCaseShiftCount, kLongerCaseCount;

}  // namespace rankfold::unicode
