// Numbers as text for a person.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <string>

namespace rankfold {

// As printf writes it, of 255 bytes at most.
std::string printed(const char* pattern, auto... values) {
  char text[256];
  std::snprintf(text, sizeof text, pattern, values...);
  return text;
}

// A count: 1234567 -> 1,234,567.
inline std::string with_commas(int64_t number) {
  std::string text = std::to_string(number);
  for (size_t i = text.size(); i > 3 && i - 3 > (number < 0 ? 1u : 0u); i -= 3) text.insert(i - 3, 1, ',');
  return text;
}

// The size of files: "512 B", "9.5 kB", "296 kB", "13 GB"; units of 1,000, as a disk's seller counts.
inline std::string size_text(uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB"};
  auto size = static_cast<double>(bytes);
  size_t unit = 0;
  while (size >= 999.5 && unit + 1 < std::size(kUnits)) size /= 1000, ++unit;
  return printed(size < 10 && unit > 0 ? "%.1f %s" : "%.0f %s", size, kUnits[unit]);
}

}  // namespace rankfold
