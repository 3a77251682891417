// Checks UTF-8, and makes text safe to print.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace rankfold {

bool is_utf8(std::string_view text);

inline constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

// Throws UserError "name:line: not UTF-8", with a guess at the encoding. `first_line` and `first_column` give the
// position of the text in its file.
void check_utf8(std::string_view text, const std::string& name, size_t first_line = 1, size_t first_column = 1);
// Throws UserError for UTF-16 with a byte order mark.
void refuse_utf16(std::string_view text, const std::string& name);

// Makes text safe for a terminal. It passes these to `replace` and inserts the result: control characters (also C1),
// marks that change the writing direction, and bytes that are not UTF-8. kProse keeps line feeds. kLine, for errors,
// replaces them too, and also invisible characters (zero-width spaces, byte order marks).
enum class Shown { kProse, kLine };
std::string printable(std::string_view text, Shown as, const std::function<std::string(std::string_view)>& replace);

// The last character boundary at or before `position`.
size_t utf8_floor(std::string_view text, size_t position);

}  // namespace rankfold
