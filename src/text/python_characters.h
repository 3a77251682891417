// Character classes of Python's str methods. They differ from those of the Python package tokenizers; for example,
// white space is not the same set as \s of its regular expressions.
#pragma once

#include "text/unicode.h"

namespace rankfold::python {

enum Property : uint16_t {
  kSpace = 1 << 0,
  kLineEnd = 1 << 1,  // line ends of str.splitlines
  kAlpha = 1 << 2,
  kDecimal = 1 << 3,
  kDigit = 1 << 4,
  kNumeric = 1 << 5,
  kLower = 1 << 6,
  kUpper = 1 << 7,
  kTitle = 1 << 8,          // titlecase letters such as U+01C5
  kCaseIgnorable = 1 << 9,  // allowed within a word: marks, apostrophes, modifier letters
  kPrintable = 1 << 10,     // unchanged by repr()
};

inline bool is(uint32_t c, int properties) { return unicode::Properties::of_python().of(c) & properties; }

inline bool is_space(uint32_t c) { return is(c, kSpace); }
inline bool is_line_end(uint32_t c) { return is(c, kLineEnd); }
inline bool is_alpha(uint32_t c) { return is(c, kAlpha); }
inline bool is_decimal(uint32_t c) { return is(c, kDecimal); }
inline bool is_digit(uint32_t c) { return is(c, kDigit); }
inline bool is_numeric(uint32_t c) { return is(c, kNumeric); }
inline bool is_alphanumeric(uint32_t c) { return is(c, kAlpha | kNumeric); }
inline bool is_word(uint32_t c) { return c == '_' || is_alphanumeric(c); }  // \w of Python's re
// Except for a dozen letterlike numbers, which Python allows.
inline bool starts_name(uint32_t c) { return c == '_' || is_alpha(c); }
inline bool is_lower(uint32_t c) { return is(c, kLower); }
inline bool is_upper(uint32_t c) { return is(c, kUpper); }
inline bool is_title(uint32_t c) { return is(c, kTitle); }
inline bool is_cased(uint32_t c) { return is(c, kLower | kUpper | kTitle); }
inline bool is_case_ignorable(uint32_t c) { return is(c, kCaseIgnorable); }
inline bool is_printable(uint32_t c) { return is(c, kPrintable); }

enum class Case { kUpper, kLower, kTitle, kFold };
// Appends the converted character, at most three characters. The caller handles the lower form of a capital sigma at
// the end of a word.
void append_cased(uint32_t c, Case to, std::string& text);

}  // namespace rankfold::python
