// Errors that reach a person. Each carries one line that names file, key or tensor, what was expected and what was
// found, and the exit code with which a program ends. The library throws and never prints or exits.
//
// What leaves the library is an Error. What libtorch, the kernels or the system threw is nested in it
// (std::rethrow_if_nested). There are three exceptions: misuse that no input causes, such as a row number beyond the
// data, throws std::invalid_argument; what a function of the caller's throws comes out as it is; and backward() of a
// loss is a call of libtorch, whose exceptions stay its own.
#pragma once

#include <cerrno>
#include <functional>
#include <stdexcept>
#include <string>

namespace rankfold {

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
  int error_number() const { return error_number_; }  // errno of the call that failed; 0: none did
  bool is_disk_full() const { return error_number_ == ENOSPC || error_number_ == EDQUOT; }

 private:
  int error_number_;
};

// Asked again and again by what takes long, from any thread, though never from two at once; true: leave, with Stopped,
// which is no failure. May be empty.
using Stop = std::function<bool()>;
class Stopped : public Error {
 public:
  Stopped() : Error(ExitCode::kInterrupted, "stopped") {}
};

}  // namespace rankfold
