// Building error lines. fail(): bad input, a UserError. RANKFOLD_CHECK: misuse of the API, with values.
// RANKFOLD_ASSERT: a defect of ours, never reachable from input.
#pragma once

#include "rankfold/error.h"

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace rankfold {

template <class... Parts>
std::string join(const Parts&... parts) {
  std::ostringstream out;
  out.precision(10);
  (out << ... << parts);
  return out.str();
}

// Shows control characters, which a stranger's file may bring along in a name: an error is one line, and a terminal
// obeys none of it.
inline std::string one_line(std::string_view text) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string line;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7F)
      line += c;
    else
      line.append("\\x").append(1, kDigits[byte >> 4]).append(1, kDigits[byte & 15]);
  }
  return line;
}

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw UserError(one_line(join(parts...)));
}

template <class... Parts>
[[noreturn]] void storage_fail(const Parts&... parts) {
  throw StorageError(one_line(join(parts...)));
}

// By the number that errno had, or an error_code's.
template <class... Parts>
[[noreturn]] void storage_failed(int error_number, const Parts&... parts) {
  throw StorageError(one_line(join(parts...)), error_number);
}

inline void leave_if(const Stop& stop) {
  if (stop && stop()) throw Stopped();
}

}  // namespace rankfold

#define RANKFOLD_CHECK(condition, ...) \
  ((condition) ? void(0) : throw std::invalid_argument(::rankfold::join(__VA_ARGS__)))
#define RANKFOLD_ASSERT(condition) \
  ((condition) ? void(0) : throw std::logic_error(::rankfold::join(__FILE__, ":", __LINE__, ": ", #condition)))
