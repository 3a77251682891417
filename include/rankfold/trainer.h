// The training job: accumulation, clipping, AdamW, schedule, logs, checkpoints, resume.
#pragma once

#include "rankfold/adapter.h"
#include "rankfold/causal_lm.h"
#include "rankfold/config.h"
#include "rankfold/dataset.h"
#include "rankfold/error.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace rankfold {

// A row of trainer_state.json's log_history and of train_log.jsonl.
struct LogRow {
  int64_t step = 0;
  double epoch = 0;
  double loss = 0;           // mean over the steps since the last row of each step's mean over its labels
  double grad_norm = 0;      // of the row's step, before clipping
  double learning_rate = 0;  // used in the row's step
  double tokens_per_second = 0;
  int64_t peak_memory_bytes = 0;
};

// What a progress display may want to know; called after every step.
struct Progress {
  int64_t step = 0;
  int64_t total_steps = 0;
  double epoch = 0;
  double tokens_per_second = 0;
  double seconds_left = 0;
  const LogRow* logged = nullptr;  // the row, on steps that log
};

class Trainer {
 public:
  // Nothing is read or written before run(). The model, adapter and data set are shared handles.
  Trainer(CausalLM model, Adapter adapter, Dataset dataset, TrainConfig config);

  // Extra files that go beside every saved adapter or model: name -> text (the prompt template, the resolved config).
  void add_file(const std::string& name, const std::string& text);
  void on_progress(std::function<void(const Progress&)> callback);
  // Human-readable notes: what was resumed, skipped, saved.
  void on_message(std::function<void(const std::string&)> callback);
  // Polled before every micro-batch; true ends the run: the open window is dropped, the last finished step is saved.
  void stop_when(Stop callback);
  // Polled after every step; true: a checkpoint of it is saved and the run goes on.
  void save_when(std::function<bool()> callback);

  // True when all steps are done, false when it was stopped. While it runs it holds output_dir alone. What ends it by an
  // exception leaves the last finished step in a checkpoint, if that can be written.
  bool run();

  const std::vector<LogRow>& log() const;
  int64_t total_steps() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace rankfold
