#include "cli/text_columns.h"

#include "core/utf8.h"

#include <algorithm>
#include <ostream>
#include <sstream>

namespace rankfold {

size_t columns_of(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::string left(const std::string& text, size_t columns) {
  return text + std::string(columns - std::min(columns, columns_of(text)), ' ');
}
std::string right(const std::string& text, size_t columns) {
  return std::string(columns - std::min(columns, columns_of(text)), ' ') + text;
}

void print_wrapped(std::ostream& out, const std::string& first, const std::string& text) {
  std::string line = first;
  bool is_empty = true;  // of words
  std::istringstream words(text);
  constexpr size_t kLeast = 4;  // of bytes a character may have
  const size_t room = kTerminalColumns - std::min(kTerminalColumns - kLeast, columns_of(first));
  for (std::string word; words >> word;) {
    for (bool is_whole = false; !is_whole;) {
      is_whole = columns_of(word) <= room;  // a word that no line has room for is cut
      const std::string part = is_whole ? word : word.substr(0, utf8_floor(word, room));
      if (!is_empty && columns_of(line) + 1 + columns_of(part) > kTerminalColumns) {
        out << line << "\n";
        line = std::string(columns_of(first), ' ');
        is_empty = true;
      }
      line += (is_empty ? "" : " ") + part;
      is_empty = false;
      word.erase(0, part.size());
    }
  }
  out << line << "\n";
}

}  // namespace rankfold
