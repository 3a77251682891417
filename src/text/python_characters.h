// Characters as Python's str methods see them, which is not how tokenizers does: white space, for one, is another set
// than \s of its regular expressions.
#pragma once

#include "text/unicode.h"

namespace rankfold::python {

enum Property : uint16_t {
  kSpace = 1 << 0,
  kLineEnd = 1 << 1,  // of str.splitlines
  kAlpha = 1 << 2,
  kDecimal = 1 << 3,
  kDigit = 1 << 4,
  kNumeric = 1 << 5,
  kLower = 1 << 6,
  kUpper = 1 << 7,
  kTitle = 1 << 8,          // letters such as the one that looks like Dz
  kCaseIgnorable = 1 << 9,  // what may stand within a word: marks, apostrophes, modifier letters
  kPrintable = 1 << 10,     // by repr() as it is
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
inline bool starts_name(uint32_t c) { return c == '_' || is_alpha(c); }  // all but a dozen letterlike numbers that may
inline bool is_lower(uint32_t c) { return is(c, kLower); }
inline bool is_upper(uint32_t c) { return is(c, kUpper); }
inline bool is_title(uint32_t c) { return is(c, kTitle); }
inline bool is_cased(uint32_t c) { return is(c, kLower | kUpper | kTitle); }
inline bool is_case_ignorable(uint32_t c) { return is(c, kCaseIgnorable); }
inline bool is_printable(uint32_t c) { return is(c, kPrintable); }

enum class Case { kUpper, kLower, kTitle, kFold };
// Appends what the character becomes: up to three. The lower form of a capital sigma at a word's end is the caller's.
void append_cased(uint32_t c, Case to, std::string& text);

}  // namespace rankfold::python
