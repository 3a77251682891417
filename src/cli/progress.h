// The progress of a run on standard output: a bar on a terminal, otherwise a line for each logged step. Not
// thread-safe.
#pragma once

#include "rankfold/trainer.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace rankfold {

// The values in the bar. Loss and memory are those of the last row of the log, if there is one.
struct BarState {
  Progress progress;
  std::optional<double> loss = {};
  int64_t peak_memory_bytes = 0;  // 0: not known
};

// One line of at most `columns` - 1 columns, without escape codes. Parts that do not fit are left out, the least
// important first. Without `unicode` it is ASCII.
std::string bar_line(const BarState& state, size_t columns, bool unicode);

class ProgressDisplay {
 public:
  ProgressDisplay();
  ~ProgressDisplay();
  ProgressDisplay(const ProgressDisplay&) = delete;
  ProgressDisplay& operator=(const ProgressDisplay&) = delete;
  void show(const Progress& progress);
  void message(const std::string& text);  // above the bar

 private:
  static bool is_heard();
  void draw();
  void end_bar();  // leaves the bar and starts a new line

  bool is_terminal_ = false, has_unicode_ = false, is_drawn_ = false;
  BarState state_;
  std::chrono::steady_clock::time_point drawn_ = {};
};

}  // namespace rankfold
