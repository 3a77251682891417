// Formats numbers for people.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <string>

namespace rankfold {

// printf into a string of at most 255 bytes.
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

// Memory: "1.25 GiB", "12 MiB".
inline std::string bytes_text(int64_t bytes) {
  const bool is_large = bytes >= int64_t{1} << 30;
  return printed(is_large ? "%.2f GiB" : "%.0f MiB", static_cast<double>(bytes) * (is_large ? 0x1p-30 : 0x1p-20));
}

// File sizes: "512 B", "9.5 kB", "296 kB", "13 GB", in units of 1,000.
inline std::string size_text(uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB"};
  auto size = static_cast<double>(bytes);
  size_t unit = 0;
  while (size >= 999.5 && unit + 1 < std::size(kUnits)) size /= 1000, ++unit;
  return printed(size < 10 && unit > 0 ? "%.1f %s" : "%.0f %s", size, kUnits[unit]);
}

}  // namespace rankfold
