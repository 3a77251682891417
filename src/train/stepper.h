// What a run computes, one optimizer step at a time: backward over a window, clipping, AdamW, and what becomes of a step
// whose numbers are not finite. Knows no files: train/run_folder.h keeps what is made here.
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

// What must be known to go on after a step, besides the optimizer's tensors. Order, dropout and learning rate are
// functions of (seed, step), so the step is also the cursor and the state of every random number.
struct StepState {
  int64_t step = 0;             // finished so far
  int64_t optimizer_steps = 0;  // less than step where steps were skipped
  double epoch = 0;
  int64_t tokens_seen = 0;
  double loss_sum = 0;  // of the steps since the last log row
  int64_t loss_count = 0;
  double grad_norm = 0;  // of the last step that counted
  int64_t skipped = 0;
  int skipped_in_a_row = 0;
  LossScale loss_scale = {};
};

class Stepper {
 public:
  // `config` is to outlive it. `say` hears of skipped steps; `stop` is asked before every micro-batch.
  Stepper(CausalLM model, Adapter adapter, Dataset dataset, const TrainConfig& config,
          std::function<void(const std::string&)> say, Stop stop);

  // Before the first step, which computes again what the plan says. UserError where the run does not fit.
  MemoryPlan plan_memory();

  struct Taken {
    double rate = 0;  // the learning rate of the step
    int64_t tokens = 0;
  };
  // The next step. Stopped where it is to be left: values and state are those of the last one that finished.
  Taken take();
  bool is_done() const { return state.step >= plan().total_steps; }
  bool is_between_steps() const { return !is_changing_; }  // false after an exception in the middle of an update
  double take_mean_loss();                                 // of the steps since the last call that counted

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
  bool base_is_finite_ = false;  // looked at, as it is only where a loss is not
};

}  // namespace rankfold
