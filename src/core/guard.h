// Converts exceptions at public functions into Error (rankfold/error.h). LibTorch, the kernels and the system throw
// other types. So a public function ends in `catch (...) { rethrow_as_error(); }`.
#pragma once

#include "rankfold/error.h"

#include <exception>
#include <functional>
#include <utility>

namespace rankfold {

// Rethrows the current exception as an Error with the matching exit code; the original is nested in it. Error,
// std::invalid_argument (misuse) and exceptions from the caller's callbacks pass through unchanged.
[[noreturn]] void rethrow_as_error();

// Wraps an exception from a caller's callback while it passes through the library.
struct CallersException {
  std::exception_ptr exception;
};

// Wraps a caller's callback so that rethrow_as_error() recognises its exceptions.
template <class Result, class... Arguments>
std::function<Result(Arguments...)> from_caller(std::function<Result(Arguments...)> function) {
  if (!function) return function;
  return [function = std::move(function)](Arguments... arguments) -> Result {
    try {
      return function(std::forward<Arguments>(arguments)...);
    } catch (const Error&) {
      throw;
    } catch (...) {
      throw CallersException{std::current_exception()};
    }
  };
}

}  // namespace rankfold
