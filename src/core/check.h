// Helpers that throw errors. fail(): bad input, a UserError. RANKFOLD_CHECK: misuse of the API, with values.
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

// Makes any text a safe error message of one line. Control characters, which could control a terminal, are shown by
// number, and the middle of a long text is omitted. File names and contents may come from untrusted sources.
std::string one_line(std::string_view text);

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw UserError(one_line(join(parts...)));
}

template <class... Parts>
[[noreturn]] void storage_fail(const Parts&... parts) {
  throw StorageError(one_line(join(parts...)));
}

// `error_number`: the value of errno or of an error_code.
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
