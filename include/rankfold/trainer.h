// The training job: accumulation, clipping, AdamW, schedule, logs, checkpoints, resume.
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

// A number with a name. Integers stand in files without a decimal point.
struct Metric {
  std::string name;
  std::variant<double, int64_t> value = 0.0;
  bool operator==(const Metric&) const = default;
};

// A row of trainer_state.json's log_history and of train_log.jsonl: step, epoch and named metrics. A row of training has
// its metrics as members too; in any other row those are 0.
struct LogRow {
  int64_t step = 0;
  double epoch = 0;
  double loss = 0;           // mean over the steps since the last row of each step's mean over its labels
  double grad_norm = 0;      // of the row's step, before clipping
  double learning_rate = 0;  // used in the row's step
  double tokens_per_second = 0;
  int64_t peak_memory_bytes = 0;
  std::vector<Metric> metrics = {};  // in the order of the files

  std::optional<double> metric(std::string_view name) const;  // nothing where the row has none of this name
};

// What the model answered to the prompt of a held-out row at an evaluation, greedily, and the row's own answer.
struct SampleAnswer {
  int64_t step = 0;
  std::string prompt = {}, expected = {}, answer = {};
};

// What a progress display may want to know; called after every step.
struct Progress {
  int64_t step = 0;
  int64_t total_steps = 0;
  double epoch = 0;
  double tokens_per_second = 0;
  double seconds_left = 0;
  const LogRow* logged = nullptr;  // the row, on steps that log
  double seconds_elapsed = 0;      // since this call of run() began
};

// A step that is finished: the adapter holds its values, and no checkpoint of it is written yet. What is asked for here is
// done when every callback of the step has returned. Valid during the call.
class StepView {
 public:
  const Progress& progress() const { return progress_; }
  bool is_last() const { return progress_.step == progress_.total_steps; }

  // Adds a row of the log, with the step and its epoch: log({{"eval_loss", 1.25}}). The names are those of LogRow's
  // metrics or new ones; "step" and "epoch" are taken. In trainer_state.json, which is the same for equal runs, names that
  // end in _per_second, _runtime or peak_memory_bytes are left out.
  void log(std::vector<Metric> metrics);
  void save() { wants_save_ = true; }  // writes a checkpoint of this step; the run goes on
  void stop() {
    wants_stop_ = true;
  }  // ends the run as stop_when() does, with this step saved; on the last one: nothing

 private:
  friend class Trainer;
  explicit StepView(const Progress& progress) : progress_(progress) {}
  const Progress& progress_;
  std::vector<LogRow> rows_;
  bool wants_save_ = false, wants_stop_ = false;
};

// What the parts of a run do not know of it. Stands in the model card, README.md, of its checkpoints and its result, which
// is the same for equal runs where this is.
struct RunDescription {
  std::string command = {};           // that repeats the run, a line of a shell; empty: not said
  std::string data = {};              // where its rows come from; empty: not said
  std::filesystem::path parent = {};  // folder of the adapter that it starts from; empty: a new one, or the base
};

class Trainer {
 public:
  // Nothing is read or written before run(). The model, adapter and data set are shared handles.
  Trainer(CausalLM model, Adapter adapter, Dataset dataset, TrainConfig config);

  // Rows to evaluate on while training, as config.eval_strategy says; none of them should train. Each evaluation adds a
  // row to the log: eval_loss, eval_runtime, eval_samples_per_second, eval_steps_per_second, as transformers names them.
  // It comes before the callbacks of its step. A step with a new best config.metric_for_best_model, which may be one
  // that a callback logs, is saved at once and kept apart from save_total_limit. Where config asks for evaluations and
  // this was not called, run() throws UserError.
  void evaluate_on(Dataset held_out);

  // Extra files that go beside every saved adapter or model: name -> text (the prompt template, the resolved config).
  void add_file(const std::string& name, const std::string& text);
  // For the model card, and for the record of the run's parents in run.json and in manifests. A run that is resumed keeps
  // the parents of its checkpoint. run() throws UserError or StorageError where the parent cannot be read.
  void describe(const RunDescription& description);
  void on_progress(std::function<void(const Progress&)> callback);
  // Human-readable notes: what was resumed, skipped, saved.
  void on_message(std::function<void(const std::string&)> callback);
  // Polled before every micro-batch; true ends the run: the open window is dropped, the last finished step is saved.
  void stop_when(Stop callback);
  // Polled after every step; true: a checkpoint of it is saved and the run goes on.
  void save_when(std::function<bool()> callback);
  // Called after every step; callbacks are called in the order in which they were added. One that throws ends the run; it
  // may pass on Stopped from evaluate() or generate(). The rows of that step are forgotten then, and a run that goes on
  // from the checkpoint which is left calls the callbacks of the step again before it computes the next: a log has the
  // same rows however often its run was ended.
  void after_step(std::function<void(StepView&)> callback);

  // True when all steps are done, false when it was stopped (Stopped where that is before the first step). While it runs it holds output_dir alone. What ends it by an
  // exception leaves the last finished step in a checkpoint, if that can be written.
  bool run();

  const std::vector<LogRow>& log() const;
  const std::vector<SampleAnswer>& samples() const;  // of every evaluation so far
  // What run() says of its memory before the first step. Throws UserError where the run does not fit, and where it
  // would refuse its settings of evaluation: evaluate_on() and after_step() come first.
  std::string memory_plan();
  int64_t total_steps() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace rankfold
