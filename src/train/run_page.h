// Writes report.html and training_loss.svg of a run to its output_dir. Not thread-safe.
#pragma once

#include "rankfold/config.h"
#include "rankfold/trainer.h"
#include "report/run_report.h"
#include "train/run_state.h"
#include "train/stepper.h"

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace rankfold {

// The messages of a run for its page: the first ones, and the number of those left out.
class RunMessages {
 public:
  void add(int64_t step, const std::string& text);
  const std::vector<RunReport::Message>& lines() const { return lines_; }
  int64_t left_out() const { return left_out_; }

 private:
  std::vector<RunReport::Message> lines_;
  int64_t left_out_ = 0;
};

// The Frobenius norm of scale * B A of each module. It is cheap, because it is computed from r x r matrices. Empty for
// full tuning, which would have to read the whole base.
std::vector<RunReport::ModuleNorm> update_norms(const Adapter& adapter);

// The contents of the page. `config_text`: the text of rankfold_config.json, with every setting of the run. Empty, for
// a run of a library user: the page shows its TrainConfig and LoraConfig.
RunReport report_of(const Stepper& steps, const RunLog& log, const TrainConfig& config, const std::string& config_text,
                    const RunMessages& messages);

class RunPage {
 public:
  RunPage(std::filesystem::path folder, std::function<void(const std::string&)> say)
      : folder_(std::move(folder)), say_(std::move(say)) {}

  // Writes both files. A failure is reported once and does not end a run.
  void write(const std::function<RunReport()>& report);
  // The same, but only if enough time has passed that writing does not slow the run noticeably.
  void write_now_and_then(const std::function<RunReport()>& report);

 private:
  using Clock = std::chrono::steady_clock;
  std::filesystem::path folder_;
  std::function<void(const std::string&)> say_;
  Clock::time_point written_ = Clock::now();  // the last try
  Clock::duration took_ = {};
  bool has_failed_ = false;
};

}  // namespace rankfold
