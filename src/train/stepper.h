// Computes a run, one optimizer step at a time: backward over an accumulation window, clipping, AdamW. It skips a step
// whose numbers are not finite. It writes no files; train/run_folder.h does.
#pragma once

#include "rankfold/adapter.h"
#include "rankfold/causal_lm.h"
#include "rankfold/config.h"
#include "rankfold/dataset.h"
#include "rankfold/error.h"
#include "train/loss_scale.h"
#include "train/memory_plan.h"
#include "train/optimizer.h"
#include "train/windows.h"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace rankfold {

// The state after a step, besides the optimizer's tensors. Order of rows, dropout and learning rate are functions of
// (seed, step), so the step also gives the position in the data and the random state.
struct StepState {
  int64_t step = 0;             // finished so far
  int64_t optimizer_steps = 0;  // less than step where steps were skipped
  double epoch = 0;
  int64_t tokens_seen = 0;
  double loss_sum = 0;  // of the steps since the last log row
  int64_t loss_count = 0;
  double grad_norm = 0;  // of the last step that was not skipped
  int64_t skipped = 0;
  int skipped_in_a_row = 0;
  LossScale loss_scale = {};
};

class Stepper {
 public:
  // `config` must outlive it. It reports skipped steps to `say`, and calls `stop` before every micro-batch.
  Stepper(CausalLM model, Adapter adapter, Dataset dataset, const TrainConfig& config,
          std::function<void(const std::string&)> say, Stop stop);

  // Call it before the first step; the steps use the gradient checkpointing of the plan. Throws UserError if the run
  // does not fit in memory.
  MemoryPlan plan_memory();

  struct Taken {
    double rate = 0;  // the learning rate of the step
    int64_t tokens = 0;
  };
  // Computes the next step. Throws Stopped if `stop` says so; values and state are then those of the last finished
  // step.
  Taken take();
  bool is_done() const { return state.step >= plan().total_steps; }
  bool is_between_steps() const { return !is_changing_; }  // false after an exception in the middle of an update
  double take_mean_loss();                                 // of the steps since the last call that were not skipped

  const StepPlan& plan() const { return windows_.plan(); }
  const Dataset& dataset() const { return windows_.dataset(); }
  const CausalLM& model() const { return model_; }
  const Adapter& adapter() const { return adapter_; }

  StepState state;  // a resume sets it, and the optimizer's tensors
  AdamW optimizer;

 private:
  void check_adapter() const;
  std::vector<double> backward(const Window& window);
  void update(const Window& window, const std::vector<double>& losses, double rate);
  void skip(const Window& window, const std::vector<double>& losses, double norm);

  CausalLM model_;
  Adapter adapter_;
  Windows windows_;
  const TrainConfig& config_;
  std::function<void(const std::string&)> say_;
  Stop stop_;
  Checkpointing checkpointing_ = Checkpointing::none;
  bool is_changing_ = false;     // values are being written
  bool base_is_finite_ = false;  // checked; the check runs only after a loss that is not finite
};

}  // namespace rankfold
