// Errors for the user. Each has a one-line message that names the file, key or tensor, what was expected and what was
// found. It also has the exit code of the programs. The library throws; it never prints or exits.
//
// Public functions throw Error. An exception of LibTorch, the kernels or the system is nested in it
// (std::rethrow_if_nested). There are three exceptions to this rule:
// - API misuse that no input causes, such as a row index out of range, throws std::invalid_argument.
// - An exception from a callback of the caller passes through unchanged.
// - backward() of a loss is a LibTorch call and throws LibTorch's exceptions.
#pragma once

#include <cerrno>
#include <functional>
#include <stdexcept>
#include <string>

namespace rankfold {

// Exit codes of the programs; kExitMeanings describes them.
enum class ExitCode : int {
  kDone = 0,
  kDefect = 1,
  kBadInput = 2,
  kNoDevice = 3,
  kOutOfMemory = 4,
  kStorage = 5,
  kDiverged = 6,
  kResumeRefused = 7,
  kInterrupted = 130,
  kTerminated = 143,
};

struct ExitMeaning {
  ExitCode code;
  const char* meaning;
};
inline constexpr ExitMeaning kExitMeanings[] = {{ExitCode::kDone, "done"},
                                                {ExitCode::kDefect, "a defect of Rankfold"},
                                                {ExitCode::kBadInput, "bad input"},
                                                {ExitCode::kNoDevice, "no such device"},
                                                {ExitCode::kOutOfMemory, "out of memory"},
                                                {ExitCode::kStorage, "storage"},
                                                {ExitCode::kDiverged, "diverged"},
                                                {ExitCode::kResumeRefused, "resume refused"},
                                                {ExitCode::kInterrupted, "stopped by SIGINT"},
                                                {ExitCode::kTerminated, "stopped by SIGTERM"}};

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& line) : std::runtime_error(line), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

// Bad input: exit code 2.
class UserError : public Error {
 public:
  explicit UserError(const std::string& line) : Error(ExitCode::kBadInput, line) {}
};

// Reading or writing failed: exit code 5.
class StorageError : public Error {
 public:
  explicit StorageError(const std::string& line, int error_number = 0)
      : Error(ExitCode::kStorage, line), error_number_(error_number) {}
  int error_number() const { return error_number_; }  // errno of the failed call; 0: no call failed
  bool is_disk_full() const { return error_number_ == ENOSPC || error_number_ == EDQUOT; }

 private:
  int error_number_;
};

// A callback that long operations poll. If it returns true, the operation ends and throws Stopped, which is not a
// failure. It may be called from any thread, but never from two at once. May be empty.
using Stop = std::function<bool()>;
class Stopped : public Error {
 public:
  Stopped() : Error(ExitCode::kInterrupted, "stopped") {}
};

}  // namespace rankfold
