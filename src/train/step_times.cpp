#include "train/step_times.h"

#include "core/check.h"
#include "model/model.h"
#include "ops/rowwise.h"
#include "train/optimizer.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace rankfold {
namespace {

using StepClock = std::chrono::steady_clock;

constexpr int kQuantiles = 7;
constexpr int kRounds = 30;          // are enough,
constexpr double kLeastSeconds = 1;  // unless they are over in no time
constexpr double kSlow = 3;          // times the seconds that there are, for the first pass alone

double elapsed(StepClock::time_point start) { return std::chrono::duration<double>(StepClock::now() - start).count(); }

// Indices of a typical micro-batch, the largest, then those at the quantiles.
std::vector<size_t> picks(const std::vector<MicroBatch>& batches) {
  std::vector<size_t> order(batches.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return batches[a].work < batches[b].work; });
  std::vector<size_t> chosen = {order[order.size() / 2]};
  const auto add = [&](size_t index) {
    if (std::find(chosen.begin(), chosen.end(), index) == chosen.end()) chosen.push_back(index);
  };
  add(order.back());
  for (size_t i = 0; i < kQuantiles; ++i) add(order[(2 * i + 1) * order.size() / (2 * kQuantiles)]);
  return chosen;
}

class Measurement {
 public:
  Measurement(const CausalLM& model, const Adapter& adapter, const Dataset& dataset, const TrainConfig& config,
              Checkpointing level)
      : model_(model), dataset_(dataset), config_(config), level_(level), optimizer_(model, adapter) {
    optimizer_.zero_gradient();
  }

  double training(const MicroBatch& rows) {
    const auto start = StepClock::now();
    const Batch batch = dataset_.batch(rows.rows);
    (model_.shared_model()->decoder.loss(batch, level_) / std::max<int64_t>(1, batch.label_count())).backward();
    wait();
    return elapsed(start);
  }
  double forward(const MicroBatch& rows) {
    const at::NoGradGuard no_grad;
    const auto start = StepClock::now();
    model_.loss(dataset_.batch(rows.rows)).item();
    return elapsed(start);
  }
  // At rate 0, so that the values stay.
  double update() {
    const auto start = StepClock::now();
    if (std::isfinite(optimizer_.clip(config_.max_grad_norm))) optimizer_.step(config_, 0);
    optimizer_.zero_gradient();
    wait();
    return elapsed(start);
  }

 private:
  void wait() const { optimizer_.gradient[0].item(); }  // until a device has done all that was asked of it

  CausalLM model_;
  Dataset dataset_;
  const TrainConfig& config_;
  Checkpointing level_;
  AdamW optimizer_;
};

}  // namespace

std::vector<MicroBatch> micro_batches(const RowSizes& sizes, const ModelConfig& c, int64_t rows_together,
                                      const std::vector<int64_t>& order) {
  // Products of a token, of a label, and of attention's pairs of tokens; a backward pass has as many again of each.
  const double hidden = static_cast<double>(c.hidden_size), heads = static_cast<double>(c.num_attention_heads);
  const double query = heads * static_cast<double>(c.head_dim);
  const double keys = static_cast<double>(c.num_key_value_heads * c.head_dim);
  const double layers = static_cast<double>(c.num_hidden_layers);
  const double token = layers * hidden * (2 * query + 2 * keys + 3 * static_cast<double>(c.intermediate_size));
  const double label = hidden * static_cast<double>(c.vocab_size), pair = layers * query;
  std::vector<MicroBatch> batches;
  for (size_t begin = 0; begin < order.size(); begin += static_cast<size_t>(rows_together)) {
    const size_t end = std::min(order.size(), begin + static_cast<size_t>(rows_together));
    MicroBatch batch;
    int64_t tokens = 0;
    for (size_t i = begin; i < end; ++i) {
      const auto row = static_cast<size_t>(order[i]);
      const double length = sizes.tokens[row];
      batch.rows.push_back(order[i]);
      tokens += sizes.tokens[row];
      batch.work += pair * length * length + label * sizes.learnt[row];
    }
    batch.work += token * static_cast<double>(ops::product_rows(tokens));
    batches.push_back(std::move(batch));
  }
  return batches;
}

void TimesByWork::add(double work, double seconds) {
  points_.insert(std::upper_bound(points_.begin(), points_.end(), std::pair(work, seconds)), {work, seconds});
}

double TimesByWork::seconds(double work) const {
  RANKFOLD_ASSERT(!points_.empty());
  const auto above = std::lower_bound(points_.begin(), points_.end(), work,
                                      [](const auto& point, double x) { return point.first < x; });
  if (above == points_.begin()) return above->second;
  const auto [x0, y0] = *(above - 1);
  if (above == points_.end()) return y0 * work / x0;
  const auto [x1, y1] = *above;
  return y0 + (y1 - y0) * (work - x0) / (x1 - x0);
}

double TimesByWork::mean(const std::vector<MicroBatch>& batches) const {
  double sum = 0;
  for (const MicroBatch& batch : batches) sum += seconds(batch.work);
  return batches.empty() ? 0 : sum / static_cast<double>(batches.size());
}

StepTimes measure_steps(const CausalLM& model, const Adapter& adapter, const Dataset& dataset,
                        const TrainConfig& config, Checkpointing level, const std::vector<MicroBatch>& batches,
                        double seconds, const Stop& stop) {
  const auto start = StepClock::now();
  Measurement measurement(model, adapter, dataset, config, level);
  struct Pick {
    const MicroBatch& batch;
    double first = 0, training = 0, forward = 0;
  };
  std::vector<Pick> measured;
  for (const size_t i : picks(batches)) {
    if (measured.size() >= 2 && elapsed(start) > seconds / 2) break;
    leave_if(stop);
    measured.push_back({batches[i]});
    measured.back().first = measurement.training(batches[i]);
  }
  StepTimes times;
  times.update = measurement.update();
  // What the first pass of each takes besides is no part of a usual step, unless that is long anyway.
  const bool is_slow = elapsed(start) > kSlow * seconds;
  int rounds = 0;
  const auto is_enough = [&] {
    if (rounds == 0) return is_slow;
    return elapsed(start) > seconds || (rounds >= kRounds && elapsed(start) > kLeastSeconds);
  };
  for (double update = 0; !is_enough(); times.update = update / rounds) {
    for (Pick& pick : measured) {
      leave_if(stop);
      pick.training += measurement.training(pick.batch);
      pick.forward += measurement.forward(pick.batch);
    }
    update += measurement.update();
    ++rounds;
  }
  for (const Pick& pick : measured) {
    const double usual = rounds > 0 ? pick.training / rounds : pick.first;
    times.training.add(pick.batch.work, usual);
    // A backward pass takes about twice what the forward pass does.
    times.forward.add(pick.batch.work, rounds > 0 ? pick.forward / rounds : pick.first / 3);
    if (rounds > 0) times.first_time += std::max(0.0, pick.first - usual) / static_cast<double>(measured.size());
    ++times.measured;
  }
  times.spent = elapsed(start);
  return times;
}

}  // namespace rankfold
