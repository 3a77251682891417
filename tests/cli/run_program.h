// A program as a person runs it, in a folder of a test's own.
#pragma once

#include "support/temp_folder.h"

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <string>
#include <thread>

namespace rankfold::testing {

struct Outcome {
  int code = -1;  // 128 and the signal's number where a signal ended it
  std::string out, err;
};

inline std::string shell_line(const TempFolder& folder, const std::string& command, const std::string& before,
                              const std::string& input) {
  return "cd '" + folder.path().string() + "' && export RANKFOLD_SET_UP=1 OMP_NUM_THREADS=2 && " + before +
         " '" RANKFOLD_BIN "'/" + command + " <'" + input + "' >.out 2>.err";
}

inline Outcome outcome_of(const TempFolder& folder, int status) {
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_bytes(folder / ".out"),
          read_bytes(folder / ".err")};
}

// Runs `command` in `folder`: shell text, of which the first word is the program. `before` comes before it: variables,
// or a program that starts it. Without the second start that a program makes by itself: tests/faults and tests/package
// have that, and it takes as long as most of what is run here.
inline Outcome run_program(const TempFolder& folder, const std::string& command, const std::string& before = "",
                           const std::string& input = "/dev/null") {
  return outcome_of(folder, std::system(shell_line(folder, command, before, input).c_str()));
}

// The same, but the program gets `signal` as soon as `is_time`, asked again and again. Killed after ten minutes.
inline Outcome signal_program(const TempFolder& folder, const std::string& command, int signal,
                              const std::function<bool(pid_t)>& is_time) {
  for (const char* file : {".out", ".err"}) std::filesystem::remove(folder / file);  // `is_time` may read them
  const std::string line = shell_line(folder, command, "exec", "/dev/null");
  const auto last = std::chrono::steady_clock::now() + std::chrono::minutes(10);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::signal(SIGINT, SIG_DFL);  // which a shell lets what runs behind it ignore
    ::execl("/bin/sh", "sh", "-c", line.c_str(), nullptr);
    ::_exit(127);
  }
  int status = 0;
  for (bool is_sent = false; ::waitpid(pid, &status, WNOHANG) == 0;) {
    if (std::chrono::steady_clock::now() > last) {
      ::kill(pid, SIGKILL);
    } else if (!is_sent && is_time(pid)) {
      ::kill(pid, signal);
      is_sent = true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return outcome_of(folder, status);
}

// It takes its signals as it wants to, and has computed for so many seconds of one core.
inline bool has_computed(pid_t pid, double seconds) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  bool is_in_main = false;
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("SigBlk:")) is_in_main = (std::stoull(line.substr(7), nullptr, 16) >> (SIGTERM - 1) & 1) != 0;
  clockid_t clock;
  timespec time;
  return is_in_main && ::clock_getcpuclockid(pid, &clock) == 0 && ::clock_gettime(clock, &time) == 0 &&
         static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9 >= seconds;
}

}  // namespace rankfold::testing
