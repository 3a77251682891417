// Learning rate and the arithmetic of steps, as transformers' Trainer counts them.
#pragma once

#include "rankfold/config.h"

#include <cstdint>
#include <string>

namespace rankfold {

// An epoch is ceil(batches / accumulation) optimizer steps: the last, shorter window also steps.
struct StepPlan {
  StepPlan(int64_t rows, const TrainConfig& config);
  int64_t steps_per_epoch = 0;
  int64_t total_steps = 0;
  int64_t epoch_of(int64_t step) const { return step / steps_per_epoch; }
  int64_t window_of(int64_t step) const { return step % steps_per_epoch; }
};

// The learning rate of optimizer step `step`, counted from 0.
double learning_rate(const TrainConfig& config, int64_t step, int64_t total_steps);

// One line of warning for a run whose learning rate is 0, or which ends before it reaches its learning rate; else
// empty.
std::string rate_warning(const TrainConfig& config, int64_t total_steps);

}  // namespace rankfold
