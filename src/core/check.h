// Building error lines. fail(): bad input, a UserError. RANKFOLD_CHECK: misuse of the API, with values.
// RANKFOLD_ASSERT: a defect of ours, never reachable from input.
#pragma once

#include "rankfold/error.h"

#include <sstream>
#include <stdexcept>
#include <string>

namespace rankfold {

template <class... Parts>
std::string join(const Parts&... parts) {
  std::ostringstream out;
  out.precision(10);
  (out << ... << parts);
  return out.str();
}

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw UserError(join(parts...));
}

template <class... Parts>
[[noreturn]] void storage_fail(const Parts&... parts) {
  throw StorageError(join(parts...));
}

inline void leave_if(const Stop& stop) {
  if (stop && stop()) throw Stopped();
}

}  // namespace rankfold

#define RANKFOLD_CHECK(condition, ...) \
  ((condition) ? void(0) : throw std::invalid_argument(::rankfold::join(__VA_ARGS__)))
#define RANKFOLD_ASSERT(condition) \
  ((condition) ? void(0) : throw std::logic_error(::rankfold::join(__FILE__, ":", __LINE__, ": ", #condition)))
