// A run's event file for TensorBoard, below output_dir/runs: a record for each row of the log, and nothing else. Not for
// several threads. What cannot be written is said once and comes with a later row: it does not end a run.
#pragma once

#include "rankfold/trainer.h"

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace rankfold {

class EventFile {
 public:
  // `folder`: output_dir.
  EventFile(const std::filesystem::path& folder, std::function<void(const std::string&)> say);

  // Writes a file of these rows and removes the event files of runs before. Rows that those had keep their time. The name
  // is a later one, so that a TensorBoard that is open goes on to it.
  void begin(const std::vector<LogRow>& rows);
  void add(const std::vector<LogRow>& rows);  // all rows so far, of which the last is new

 private:
  void write_all(const std::vector<LogRow>& rows);
  void attempt(const std::function<void()>& write);

  std::filesystem::path folder_, path_;
  std::function<void(const std::string&)> say_;
  std::vector<double> times_;  // of the rows
  bool is_behind_ = false;     // rows are missing in the file
};

// How a metric of the log is called in TensorBoard: train/loss, eval/loss for eval_loss, a name of a caller's as it is.
std::string tag_of(const std::string& metric);

}  // namespace rankfold
