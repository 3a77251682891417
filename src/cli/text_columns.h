// Text in columns of a terminal.
#pragma once

#include <cstddef>
#include <iosfwd>
#include <string>

namespace rankfold {

inline constexpr size_t kTerminalColumns = 100;

size_t columns_of(const std::string& text);                  // as far as its characters are narrow
std::string left(const std::string& text, size_t columns);   // padded behind
std::string right(const std::string& text, size_t columns);  // padded before

// `first` and then the words of `text`, in lines of at most kTerminalColumns that all begin where `first` ends.
void print_wrapped(std::ostream& out, const std::string& first, const std::string& text);

}  // namespace rankfold
