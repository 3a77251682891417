#include "train/schedule.h"

#include "core/check.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rankfold {

StepPlan::StepPlan(int64_t rows, const TrainConfig& config) {
  const auto ceil_div = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  const int64_t batches = ceil_div(rows, config.per_device_train_batch_size);
  steps_per_epoch = std::max<int64_t>(1, ceil_div(batches, config.gradient_accumulation_steps));
  constexpr double kMost = int64_t{1} << 53;  // that a double counts one by one
  const double steps = config.max_steps > 0 ? static_cast<double>(config.max_steps)
                                            : std::ceil(config.num_train_epochs * static_cast<double>(steps_per_epoch));
  if (!(steps <= kMost))
    fail(config.max_steps > 0 ? "max_steps" : "num_train_epochs", ": expected at most ", int64_t{1} << 53,
         " optimizer steps in all, got ", steps);
  total_steps = static_cast<int64_t>(steps);
}

namespace {

double warmup_of(const TrainConfig& config, double total) {
  const double steps = config.warmup_steps;
  return steps < 1 ? std::ceil(total * std::max(steps, config.warmup_ratio)) : steps;
}

}  // namespace

double learning_rate(const TrainConfig& config, int64_t step, int64_t total_steps) {
  const double now = static_cast<double>(step), total = static_cast<double>(total_steps);
  const double warmup = warmup_of(config, total);
  const Schedule schedule = meaning_of(kSchedules, config.lr_scheduler_type);
  if (schedule == Schedule::kConstant) return config.learning_rate;
  if (now < warmup) return config.learning_rate * now / std::max(1.0, warmup);
  if (schedule == Schedule::kConstantWithWarmup) return config.learning_rate;
  const double rest = std::max(1.0, total - warmup);
  if (schedule == Schedule::kCosine)
    return config.learning_rate * std::max(0.0, 0.5 * (1 + std::cos(std::numbers::pi * (now - warmup) / rest)));
  return config.learning_rate * std::max(0.0, (total - now) / rest);
}

std::string rate_warning(const TrainConfig& config, int64_t total_steps) {
  if (config.learning_rate == 0) return "warning: learning_rate is 0: no step changes anything";
  const double warmup = warmup_of(config, static_cast<double>(total_steps));
  const double last = learning_rate(config, total_steps - 1, total_steps);
  if (meaning_of(kSchedules, config.lr_scheduler_type) == Schedule::kConstant ||
      warmup < static_cast<double>(total_steps))
    return "";
  if (last == 0) return "warning: the one step of this run is its warm-up: its learning rate is 0";
  return join("warning: this run of ", total_steps, " steps ends inside its warm-up of ", warmup,
              ": its learning rate comes to ", last, " of ", config.learning_rate);
}

}  // namespace rankfold
