// UTF-8 or not, and what it may be instead.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace rankfold {

bool is_utf8(std::string_view text);

// Throws UserError "name:line: not UTF-8", with a hint at the encoding.
void check_utf8(std::string_view text, const std::string& name);

// Text for a terminal: what it may take for an order (control characters, C1's too, marks that turn the direction, bytes
// that are no UTF-8) is put through `replace`, which is given its bytes; line feeds stay where `keeps_lines`.
std::string printable(std::string_view text, bool keeps_lines,
                      const std::function<std::string(std::string_view)>& replace);

// The last boundary between characters at or before `position`.
size_t utf8_floor(std::string_view text, size_t position);

}  // namespace rankfold
