// A program as a person runs it, in a folder of a test's own.
#pragma once

#include "support/temp_folder.h"

#include <sys/wait.h>

#include <cstdlib>
#include <string>

namespace rankfold::testing {

struct Outcome {
  int code = -1;  // 128 and the signal's number where a signal ended it
  std::string out, err;
};

// Runs `command` in `folder`: shell text, of which the first word is the program. `before` comes before it: variables,
// or a program that starts it. Without the second start that a program makes by itself: tests/faults and tests/package
// have that, and it takes as long as most of what is run here.
inline Outcome run_program(const TempFolder& folder, const std::string& command, const std::string& before = "",
                           const std::string& input = "/dev/null") {
  const std::string line = "cd '" + folder.path().string() + "' && RANKFOLD_SET_UP=1 OMP_NUM_THREADS=2 " + before +
                           " '" RANKFOLD_BIN "'/" + command + " <'" + input + "' >.out 2>.err";
  const int status = std::system(line.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_bytes(folder / ".out"),
          read_bytes(folder / ".err")};
}

}  // namespace rankfold::testing
