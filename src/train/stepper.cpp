#include "train/stepper.h"

#include "adapter/adapter_files.h"
#include "core/check.h"
#include "core/memory.h"
#include "model/model.h"
#include "train/schedule.h"
#include "train/step_check.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace rankfold {
namespace {

constexpr int kMostSkippedInARow = 10;

// A micro-batch for which memory did not suffice.
Error too_large(const Batch& batch, int64_t step, const std::string& wanted) {
  int64_t longest = 0;
  for (size_t b = 0; b + 1 < batch.offsets.size(); ++b)
    longest = std::max(longest, batch.offsets[b + 1] - batch.offsets[b]);
  return Error(ExitCode::kOutOfMemory,
               join("out of memory in step ", step, ", in a micro-batch of ", batch.rows(), " rows and ",
                    batch.token_count(), " tokens, the longest row ", longest, wanted.empty() ? "" : ": ", wanted));
}

}  // namespace

Stepper::Stepper(CausalLM model, Adapter adapter, Dataset dataset, const TrainConfig& config,
                 std::function<void(const std::string&)> say, Stop stop)
    : optimizer(model, adapter),
      model_(std::move(model)),
      adapter_(std::move(adapter)),
      windows_(std::move(dataset), config),
      config_(config),
      say_(std::move(say)),
      stop_(std::move(stop)) {
  if (model_.dtype() == at::kHalf) state.loss_scale.value = LossScale::kStart;
}

void Stepper::check_adapter() const {
  const bool is_alone = adapter_.is_full() || model_.active_adapters().size() == 1;
  RANKFOLD_CHECK(adapter_.is_of(model_) && adapter_.is_active() && is_alone, "Trainer: the adapter '", adapter_.name(),
                 "' must be the only active one of its model (CausalLM::set_active_adapters)");
  check_is_of_folder(adapter_, *model_.shared_model());
}

MemoryPlan Stepper::plan_memory() {
  refuse_head(model_, adapter_.modules());
  check_adapter();
  const MemoryPlan memory =
      rankfold::plan_memory(*model_.shared_model(), adapter_, config_, windows_.largest_batch(stop_));
  checkpointing_ = memory.checkpointing;
  return memory;
}

Stepper::Taken Stepper::take() {
  check_adapter();  // what is called after a step may have switched them
  const Window window = windows_.at(state.step);
  const double rate = learning_rate(config_, state.step, plan().total_steps);
  update(window, backward(window), rate);
  ++state.step;
  state.optimizer_steps = optimizer.steps;
  state.tokens_seen += window.tokens;
  state.epoch = static_cast<double>(state.step) / static_cast<double>(plan().steps_per_epoch);
  return {rate, window.tokens};
}

double Stepper::take_mean_loss() {
  const double mean = state.loss_sum / static_cast<double>(state.loss_count);
  state.loss_sum = 0, state.loss_count = 0;
  return mean;
}

// Sums the gradients of the micro-batches; gives each one's share of the window's loss.
std::vector<double> Stepper::backward(const Window& window) {
  optimizer.zero_gradient();
  // The loss of the step is the mean over every label of the window, known before backward: a mean of micro-batch means
  // would weigh short rows more.
  const auto labels = static_cast<double>(window.labels);
  at::Tensor shares = at::zeros({static_cast<int64_t>(window.batches.size())},
                                at::TensorOptions(model_.device()).dtype(at::kDouble));  // read once a step
  for (size_t i = 0; i < window.batches.size(); ++i) {
    leave_if(stop_);
    try {
      const at::Tensor share = model_.shared_model()->decoder.loss(window.batches[i], checkpointing_) / labels;
      (state.loss_scale.value == 1 ? share : share * state.loss_scale.value).backward();
      shares[static_cast<int64_t>(i)].copy_(share.detach());
    } catch (const std::exception& error) {
      const auto wanted = out_of_memory(error);
      if (!wanted) throw;
      throw too_large(window.batches[i], state.step + 1, *wanted);
    }
  }
  const at::Tensor read = shares.cpu();
  return {read.const_data_ptr<double>(), read.const_data_ptr<double>() + read.numel()};
}

// Changes the values, or leaves all state as it is where a number is not finite.
void Stepper::update(const Window& window, const std::vector<double>& losses, double rate) {
  const double loss = std::accumulate(losses.begin(), losses.end(), 0.0);
  const double norm = optimizer.clip(config_.max_grad_norm, state.loss_scale.value);
  if (!std::isfinite(loss) || !std::isfinite(norm)) return skip(window, losses, norm);
  if (optimizer.steps == 0 && reaches_every_part(window.batches)) check_every_gradient(adapter_);
  is_changing_ = true;
  optimizer.step(config_, rate);
  is_changing_ = false;
  state.skipped_in_a_row = 0;
  if (model_.dtype() == at::kHalf) state.loss_scale.counted();
  state.loss_sum += loss;
  ++state.loss_count;
  state.grad_norm = norm;
}

void Stepper::skip(const Window& window, const std::vector<double>& losses, double norm) {
  ++state.skipped;
  std::vector<int64_t> broken, all;
  for (size_t i = 0; i < losses.size(); ++i) {
    const auto& rows = window.batches[i].samples;
    all.insert(all.end(), rows.begin(), rows.end());
    if (!std::isfinite(losses[i])) broken.insert(broken.end(), rows.begin(), rows.end());
  }
  const double loss = std::accumulate(losses.begin(), losses.end(), 0.0);
  std::string line = join("step ", state.step + 1, ": skipped, loss ", loss, ", gradient norm ", norm, ", ",
                          rows_text(dataset(), broken.empty() ? all : broken), " of the data");
  if (broken.empty() && state.loss_scale.value > 1) {  // how a scale is found, not a sign of trouble
    state.loss_scale.overflowed();
    return say_(join(line, "; the loss scale is ", state.loss_scale.value, " now"));
  }
  say_(line);
  if (!base_is_finite_) check_base_is_finite(*model_.shared_model());
  base_is_finite_ = true;
  if (++state.skipped_in_a_row >= kMostSkippedInARow)
    throw Error(ExitCode::kDiverged, join("step ", state.step + 1, ": the loss or the gradient was not finite ",
                                          kMostSkippedInARow, " steps in a row"));
}

}  // namespace rankfold
