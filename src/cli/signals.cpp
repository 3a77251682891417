#include "cli/signals.h"

#include "core/check.h"
#include "core/file.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstring>
#include <thread>

namespace rankfold {
namespace {

std::atomic<int> noted = 0;
std::atomic<bool> save_requested = false;
std::atomic<bool> takes_interrupts = false, interrupted = false;
const char* program_name = "";

// But for what whoever started the program told it to ignore, as a shell does with SIGINT for what runs behind it. Held
// back, such a signal would be noted all the same.
sigset_t ours() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) {
    struct sigaction action = {};
    if (::sigaction(signal, nullptr, &action) != 0 || action.sa_handler != SIG_IGN) sigaddset(&set, signal);
  }
  return set;
}

void end_by(int signal) {
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

// Supervisors repeat SIGTERM. timeout(1), and launchers that pass on a Ctrl-C which the terminal has sent to all of them,
// send SIGINT twice at once: only one that comes later is a person who will not wait.
constexpr auto kAtOnce = std::chrono::milliseconds(250);

[[noreturn]] void take_signals(const sigset_t& set) {
  std::chrono::steady_clock::time_point first;
  for (int signal = 0;;) {
    if (::sigwait(&set, &signal) != 0) continue;
    const auto now = std::chrono::steady_clock::now();
    if (signal == SIGUSR1) {
      save_requested = true;
    } else if (signal == SIGINT && takes_interrupts) {
      interrupted = true;
    } else if (noted == 0) {
      noted = signal;
      first = now;
    } else if (signal == SIGINT && now - first > kAtOnce) {
      ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
      end_by(signal);
    }
  }
}

void put(const char* text) { static_cast<void>(::write(STDERR_FILENO, text, std::strlen(text)) == 0); }

void report_lost(int signal, siginfo_t* info, void*) {
  const char* file = mapped_file_at(info->si_addr);
  if (!file) return end_by(signal);
  for (const char* part :
       {program_name, ": ", file, ": became shorter while it was read, or cannot be read any more\n"})
    put(part);
  ::_exit(static_cast<int>(ExitCode::kStorage));
}

}  // namespace

void hold_signals() {
  const sigset_t set = ours();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGHUP, SIG_IGN);
}

void note_signals() { std::thread(take_signals, ours()).detach(); }

bool stop_requested() { return noted != 0; }
bool take_save_request() { return save_requested.exchange(false); }
void take_interrupts() { takes_interrupts = true; }
bool take_interrupt() { return interrupted.exchange(false); }

Error stopped_by_signal() {
  RANKFOLD_ASSERT(noted != 0);
  return noted == SIGINT ? Error(ExitCode::kInterrupted, "stopped by SIGINT")
                         : Error(ExitCode::kTerminated, "stopped by SIGTERM");
}

void report_lost_mappings(const char* program) {
  program_name = program;
  struct sigaction action = {};
  action.sa_sigaction = report_lost;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, nullptr);
}

}  // namespace rankfold
