#include "cli/signals.h"

#include "core/check.h"
#include "core/file.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>

namespace rankfold {
namespace {

std::atomic<int> noted = 0;
std::atomic<bool> save_requested = false;
const char* program_name = "";

void handle(int signal, void (*handler)(int, siginfo_t*, void*), int flags) {
  struct sigaction action = {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | flags;
  ::sigaction(signal, &action, nullptr);
}

void end_by(int signal) {
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

// Supervisors repeat SIGTERM, and wrappers pass it on twice: only a person's Ctrl-C asks for more the second time.
void note(int signal, siginfo_t*, void*) {
  int none = 0;
  if (!noted.compare_exchange_strong(none, signal) && signal == SIGINT) end_by(signal);
}

void note_save(int, siginfo_t*, void*) { save_requested = true; }

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

void note_signals() {
  for (const int signal : {SIGINT, SIGTERM}) handle(signal, note, SA_RESTART | SA_NODEFER);
  handle(SIGUSR1, note_save, SA_RESTART);
  std::signal(SIGHUP, SIG_IGN);
}

bool stop_requested() { return noted != 0; }
bool take_save_request() { return save_requested.exchange(false); }

Error stopped_by_signal() {
  RANKFOLD_ASSERT(noted != 0);
  return noted == SIGINT ? Error(ExitCode::kInterrupted, "stopped by SIGINT")
                         : Error(ExitCode::kTerminated, "stopped by SIGTERM");
}

void report_lost_mappings(const char* program) {
  program_name = program;
  handle(SIGBUS, report_lost, 0);
}

}  // namespace rankfold
