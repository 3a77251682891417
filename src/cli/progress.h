// How far a run is, on standard output: a bar that is drawn over and over on a terminal, a line for each logged step
// elsewhere. Not for several threads.
#pragma once

#include "rankfold/trainer.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace rankfold {

// What the bar shows. Losses and memory are of the last row of the log, if there was one.
struct BarState {
  Progress progress;
  std::optional<double> loss = {};
  int64_t peak_memory_bytes = 0;  // 0: not known
};

// One line of at most `columns` - 1 columns, without escape codes: what does not fit is left out, the least important
// first. Without `unicode` it is ASCII.
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
  void end_bar();  // the bar stays, and what follows begins on a line of its own

  bool is_terminal_ = false, has_unicode_ = false, is_drawn_ = false;
  BarState state_;
  std::chrono::steady_clock::time_point drawn_ = {};
};

}  // namespace rankfold
