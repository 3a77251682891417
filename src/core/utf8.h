// UTF-8 or not, and what it may be instead.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace rankfold {

bool is_utf8(std::string_view text);

inline constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

// Throws UserError "name:line: not UTF-8", with a hint at the encoding. `first_line` and `first_column` say where in its
// file the text begins.
void check_utf8(std::string_view text, const std::string& name, size_t first_line = 1, size_t first_column = 1);
// Only for UTF-16 with its byte order mark.
void refuse_utf16(std::string_view text, const std::string& name);

// Text for a terminal. What a terminal acts on (control characters, C1's too, marks that turn the direction) and bytes that
// are no UTF-8 are replaced by what `replace` makes of them. kProse: line feeds stay. kLine, for errors: they do not, and
// characters that cannot be seen (spaces without a width, byte order marks) are replaced too.
enum class Shown { kProse, kLine };
std::string printable(std::string_view text, Shown as, const std::function<std::string(std::string_view)>& replace);

// The last boundary between characters at or before `position`.
size_t utf8_floor(std::string_view text, size_t position);

}  // namespace rankfold
