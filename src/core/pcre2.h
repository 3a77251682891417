// Shared by all users of PCRE2: ownership, error messages, and the CPU time of this thread, which limits a match.
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

// Takes ownership. Throws std::bad_alloc for null, which PCRE2 returns when it is out of memory.
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
