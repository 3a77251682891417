// What all that is matched by PCRE2 shares: lifetimes, messages of its errors, and the clock that bounds a match.
#pragma once

#include "core/check.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <chrono>
#include <ctime>
#include <memory>
#include <new>
#include <string>

namespace rankfold::pcre2 {

inline std::chrono::nanoseconds thread_time() {
  timespec now = {};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

// Throws std::bad_alloc for null, which is what PCRE2 gives where memory ran out.
template <class T>
std::shared_ptr<T> owned(T* pointer, void (*free)(T*)) {
  if (pointer == nullptr) throw std::bad_alloc();
  return {pointer, free};
}

inline std::string message(int error) {
  PCRE2_UCHAR text[256];
  return ::pcre2_get_error_message(error, text, sizeof text) < 0 ? join("error ", error)
                                                                 : reinterpret_cast<const char*>(text);
}

}  // namespace rankfold::pcre2
