#include "train/windows.h"

#include "core/check.h"
#include "ops/rowwise.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <set>

namespace rankfold {

Windows::Windows(Dataset dataset, const TrainConfig& config)
    : dataset_(std::move(dataset)),
      plan_(dataset_.size(), config),
      seed_(static_cast<uint64_t>(config.seed)),
      shuffle_(config.shuffle),
      rows_(config.per_device_train_batch_size),
      rows_of_a_step_(rows_ * config.gradient_accumulation_steps) {}

std::vector<int64_t> Windows::order_of(int64_t epoch) const {
  return epoch_order(dataset_.size(), seed_, epoch, shuffle_);
}

Window Windows::at(int64_t step) {
  if (order_epoch_ != plan_.epoch_of(step)) {
    order_epoch_ = plan_.epoch_of(step);
    order_ = order_of(order_epoch_);
  }
  const int64_t first = plan_.window_of(step) * rows_of_a_step_;
  const int64_t last = std::min(dataset_.size(), first + rows_of_a_step_);
  Window window;
  for (int64_t begin = first; begin < last; begin += rows_) {
    Batch batch = dataset_.batch({order_.begin() + begin, order_.begin() + std::min(last, begin + rows_)});
    batch.first_row = begin - first;
    batch.step = step;
    window.labels += batch.label_count();
    window.tokens += batch.token_count();
    window.batches.push_back(std::move(batch));
  }
  return window;
}

BatchSize Windows::largest_batch(const Stop& stop) const {
  constexpr int64_t kMostLooks = 30'000'000;  // at rows: half a second
  BatchSize largest;
  std::set<int64_t> sizes;
  int64_t longest = 0;
  const int64_t epochs = shuffle_ ? plan_.epoch_of(plan_.total_steps - 1) + 1 : 1;
  if (epochs > std::max<int64_t>(1, kMostLooks / dataset_.size())) return batch_of_longest_rows();
  for (int64_t epoch = 0; epoch < epochs; ++epoch) {
    leave_if(stop);
    const auto order = order_of(epoch);
    const int64_t steps = std::min(plan_.steps_per_epoch, plan_.total_steps - epoch * plan_.steps_per_epoch);
    const int64_t end = std::min(dataset_.size(), steps * rows_of_a_step_);
    for (int64_t begin = 0; begin < end; begin += rows_) {
      BatchSize batch{.rows = std::min(rows_, dataset_.size() - begin)};
      for (int64_t i = begin; i < begin + batch.rows; ++i) {
        const int64_t length = dataset_.length(order[static_cast<size_t>(i)]);
        batch.tokens += length;
        longest = std::max(longest, length);
      }
      sizes.insert(ops::product_rows(batch.tokens));
      if (batch.tokens > largest.tokens) largest = batch;
    }
  }
  largest.sizes = static_cast<int64_t>(sizes.size());
  largest.longest = longest;
  return largest;
}

BatchSize Windows::batch_of_longest_rows() const {
  BatchSize batch{.sizes = 0, .rows = std::min(rows_, dataset_.size())};
  std::vector<int64_t> lengths(static_cast<size_t>(dataset_.size()));
  for (size_t i = 0; i < lengths.size(); ++i) lengths[i] = dataset_.length(static_cast<int64_t>(i));
  std::partial_sort(lengths.begin(), lengths.begin() + batch.rows, lengths.end(), std::greater<>());
  batch.tokens = std::accumulate(lengths.begin(), lengths.begin() + batch.rows, int64_t{0});
  batch.longest = lengths[0];
  for (int64_t tokens = 1; tokens <= batch.tokens; tokens = ops::product_rows(tokens) + 1) ++batch.sizes;
  return batch;
}

}  // namespace rankfold
