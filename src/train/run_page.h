// report.html and training_loss.svg of a run, in its output_dir. Not for several threads.
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

// Lines that a run says, to be shown on its page: the first of them, and how many more there were.
class RunMessages {
 public:
  void add(int64_t step, const std::string& text);
  const std::vector<RunReport::Message>& lines() const { return lines_; }
  int64_t left_out() const { return left_out_; }

 private:
  std::vector<RunReport::Message> lines_;
  int64_t left_out_ = 0;
};

// Frobenius norm of scale * B A of each module: of r x r matrices, hence cheap. Empty for full tuning, which would have to
// read the whole base.
std::vector<RunReport::ModuleNorm> update_norms(const Adapter& adapter);

// What the page shows. `config_text`: rankfold_config.json, every setting of the run; empty: a caller's own run, of which
// its TrainConfig and LoraConfig are shown.
RunReport report_of(const Stepper& steps, const RunLog& log, const TrainConfig& config, const std::string& config_text,
                    const RunMessages& messages);

class RunPage {
 public:
  RunPage(std::filesystem::path folder, std::function<void(const std::string&)> say)
      : folder_(std::move(folder)), say_(std::move(say)) {}

  // Writes both files. What fails is said once and does not end a run.
  void write(const std::function<RunReport()>& report);
  // The same where some time has passed, so that it costs a run nothing that one would notice.
  void write_now_and_then(const std::function<RunReport()>& report);

 private:
  using Clock = std::chrono::steady_clock;
  std::filesystem::path folder_;
  std::function<void(const std::string&)> say_;
  Clock::time_point written_ = Clock::now();  // or tried
  Clock::duration took_ = {};
  bool has_failed_ = false;
};

}  // namespace rankfold
