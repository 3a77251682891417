// A training run: gradient accumulation, clipping, AdamW, schedule, logs, checkpoints, resume.
#pragma once

#include "rankfold/adapter.h"
#include "rankfold/causal_lm.h"
#include "rankfold/config.h"
#include "rankfold/dataset.h"
#include "rankfold/error.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace rankfold {

// A named number. An integer is written to files without a decimal point.
struct Metric {
  std::string name;
  std::variant<double, int64_t> value = 0.0;
  bool operator==(const Metric&) const = default;
};

// One row of trainer_state.json's log_history and of train_log.jsonl: step, epoch and named metrics. For a row of
// training, the metrics are also in the members; in other rows these are 0.
struct LogRow {
  int64_t step = 0;
  double epoch = 0;
  double loss = 0;           // each step's mean over its labels, averaged over the steps since the last row
  double grad_norm = 0;      // of this step, before clipping
  double learning_rate = 0;  // of this step
  double tokens_per_second = 0;
  int64_t peak_memory_bytes = 0;
  std::vector<Metric> metrics = {};  // in the order of the log files

  std::optional<double> metric(std::string_view name) const;  // nullopt: the row has no such metric
};

// The model's greedy answer to the prompt of a held-out row at an evaluation, and the row's own answer.
struct SampleAnswer {
  int64_t step = 0;
  std::string prompt = {}, expected = {}, answer = {};
};

// Progress of a run, passed to on_progress() after every step.
struct Progress {
  int64_t step = 0;
  int64_t total_steps = 0;
  double epoch = 0;
  double tokens_per_second = 0;
  double seconds_left = 0;
  const LogRow* logged = nullptr;  // the new log row; null if this step logs none
  double seconds_elapsed = 0;      // since this call of run() began
};

// A finished step, passed to after_step() callbacks; valid only during the call. The adapter has the step's values, and
// no checkpoint of the step exists yet. The trainer carries out the requests made here after all callbacks of the step
// have returned.
class StepView {
 public:
  const Progress& progress() const { return progress_; }
  bool is_last() const { return progress_.step == progress_.total_steps; }

  // Adds a log row with this step and epoch: log({{"eval_loss", 1.25}}). Names may be those of LogRow's metrics or new
  // ones, but not "step" or "epoch". trainer_state.json is identical for equal runs, so it omits names that end in
  // _per_second, _runtime or peak_memory_bytes. Throws std::invalid_argument for an empty, reserved or repeated name.
  void log(std::vector<Metric> metrics);
  void save() { wants_save_ = true; }  // writes a checkpoint of this step; the run continues
  // Saves this step and ends the run as stop_when() does. No effect on the last step.
  void stop() { wants_stop_ = true; }

 private:
  friend class Trainer;
  explicit StepView(const Progress& progress) : progress_(progress) {}
  const Progress& progress_;
  std::vector<LogRow> rows_;
  bool wants_save_ = false, wants_stop_ = false;
};

// Information for the model card (README.md) of checkpoints and the result, which the Trainer cannot derive. Equal runs
// with equal descriptions get equal cards.
struct RunDescription {
  std::string command = {};           // shell command that repeats the run, one line; empty: not given
  std::string data = {};              // source of the rows; empty: not given
  std::filesystem::path parent = {};  // folder of the adapter that the run starts from; empty: none
};

// Runs one training job. Only one thread at a time may use a Trainer or its model. An exception from a callback ends
// the run and passes through.
class Trainer {
 public:
  // Checks the config; throws UserError for a bad setting. Nothing is read or written before run(). The model, adapter
  // and data set are shared handles.
  Trainer(CausalLM model, Adapter adapter, Dataset dataset, TrainConfig config);

  // Sets the rows to evaluate on during training, at the times of config.eval_strategy. They should not be training
  // rows. Each evaluation runs before the callbacks of its step and adds a log row, with the names of transformers:
  // eval_loss, eval_runtime, eval_samples_per_second, eval_steps_per_second.
  // config.metric_for_best_model may also be a metric that a callback logs. A step with a new best value is saved at
  // once, and save_total_limit does not delete it.
  // If config requests evaluations and this was not called, run() throws UserError.
  void evaluate_on(Dataset held_out);

  // Adds a file to every saved adapter or model: name and text, such as the prompt template or the resolved config.
  void add_file(const std::string& name, const std::string& text);
  // Sets the description for the model card, and for the run's parents in run.json and in manifests. A resumed run
  // keeps the parents of its checkpoint: of the parent only the checksum is read then, and a checkpoint whose run began
  // from another one is refused with ExitCode::kResumeRefused. run() throws UserError or StorageError where the parent
  // cannot be read.
  void describe(const RunDescription& description);
  void on_progress(std::function<void(const Progress&)> callback);
  // Receives messages for the user, one line or table each: what was resumed, skipped or saved.
  void on_message(std::function<void(const std::string&)> callback);
  // Polled before every micro-batch. True ends the run: it discards the gradients of the unfinished step and saves the
  // last finished one.
  void stop_when(Stop callback);
  // Polled after every step. True saves a checkpoint of the step; the run continues.
  void save_when(std::function<bool()> callback);
  // Called after every step, in the order in which callbacks were added. A callback may let Stopped of evaluate() or
  // generate() pass through. If a callback throws, the log rows of that step are discarded. A run that resumes from the
  // remaining checkpoint first calls the callbacks of the step again. So the log has the same rows, however often the
  // run was interrupted. Throws std::invalid_argument for an empty function.
  void after_step(std::function<void(StepView&)> callback);

  // Runs or resumes the job. Returns true when all steps are done, false when the run was stopped. Throws Stopped where
  // it was stopped before the first step. No other process can write to output_dir meanwhile. If an exception ends the
  // run, it saves the last finished step in a checkpoint where possible.
  // Throws UserError for bad input, StorageError where writing fails, Error with kDiverged, kOutOfMemory or
  // kResumeRefused.
  bool run();

  const std::vector<LogRow>& log() const;
  const std::vector<SampleAnswer>& samples() const;  // of all evaluations so far
  // Returns the table of planned memory that run() reports before the first step. Throws UserError where the run does
  // not fit, or where run() would refuse its evaluation settings. Call evaluate_on() and after_step() before.
  std::string memory_plan();
  int64_t total_steps() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace rankfold
