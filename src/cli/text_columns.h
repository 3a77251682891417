// Text in columns of a terminal.
#pragma once

#include <cstddef>
#include <iosfwd>
#include <string>

namespace rankfold {

inline constexpr size_t kTerminalColumns = 100;

size_t columns_of(const std::string& text);                  // width, if every character takes one column
std::string left(const std::string& text, size_t columns);   // padded at the end
std::string right(const std::string& text, size_t columns);  // padded at the start

// Prints `first`, then the words of `text`, in lines of at most kTerminalColumns. Later lines are indented to the end
// of `first`.
void print_wrapped(std::ostream& out, const std::string& first, const std::string& text);

}  // namespace rankfold
