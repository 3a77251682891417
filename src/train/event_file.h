// A run's event file for TensorBoard, below output_dir/runs, with a record for each row of the log. Not thread-safe.
// A failed write does not end a run: it is reported once, and the records are written with a later row.
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

  // Writes a new file of these rows and removes older event files. Rows that the old files had keep their time. The new
  // name sorts after the old ones, so a running TensorBoard continues with it.
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

// The TensorBoard tag of a metric: train/loss for loss, eval/loss for eval_loss; a caller's own name stays as it is.
std::string tag_of(const std::string& metric);

}  // namespace rankfold
