// What leaves a public entry point is an Error (rankfold/error.h). Of libtorch, the kernels and the system other kinds
// come: an entry point ends in `catch (...) { rethrow_as_error(); }`.
#pragma once

#include "rankfold/error.h"

#include <exception>
#include <functional>
#include <utility>

namespace rankfold {

// Throws the exception in flight as an Error with the exit code of its kind, itself nested in it. Error,
// std::invalid_argument (misuse) and what a caller's own function has thrown stay what they are.
[[noreturn]] void rethrow_as_error();

// What a caller's own function has thrown, on its way through the library.
struct CallersException {
  std::exception_ptr exception;
};

// A caller's function for use inside the library: rethrow_as_error() knows what it throws.
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
