// UTF-8 or not, and what it may be instead.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace rankfold {

bool is_utf8(std::string_view text);

// Throws UserError "name:line: not UTF-8", with a hint at the encoding.
void check_utf8(std::string_view text, const std::string& name);

// The last boundary between characters at or before `position`.
size_t utf8_floor(std::string_view text, size_t position);

}  // namespace rankfold
