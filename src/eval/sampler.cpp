#include "eval/sampler.h"

#include "ops/cpu/loops.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <stdexcept>

namespace rankfold {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max();

// The count-th largest of the values. Most of them are compared once.
float nth_largest(std::span<const float> values, size_t count, std::vector<float>& room) {
  const size_t most = std::max<size_t>(2 * count, 1024);
  room.clear();
  room.reserve(most);
  float least = -INFINITY;
  const auto shrink = [&] {
    std::nth_element(room.begin(), room.begin() + static_cast<std::ptrdiff_t>(count - 1), room.end(), std::greater<>());
    room.resize(count);
    least = room.back();
  };
  for (const float x : values) {
    if (x <= least) continue;
    room.push_back(x);
    if (room.size() == most) shrink();
  }
  if (room.size() > count) shrink();
  return *std::min_element(room.begin(), room.end());
}

}  // namespace

Sampler::Sampler(const GenerateConfig& config, int64_t sample, const std::vector<int32_t>& prompt)
    : config_(config),
      generator_(static_cast<uint64_t>(config.seed) ^ (static_cast<uint64_t>(sample) * 0x9E3779B97F4A7C15)) {
  for (const int32_t id : prompt) note(id);
}

void Sampler::note(int32_t id) {
  if (config_.repetition_penalty != 1) seen_.emplace(id, 0.0f);
}

void Sampler::penalise(std::span<float> logits) {
  const float penalty = static_cast<float>(config_.repetition_penalty);
  for (auto& [id, plain] : seen_) {
    float& x = logits[static_cast<size_t>(id)];
    plain = x;
    x = std::clamp(x < 0 ? x * penalty : x / penalty, -kLargest, kLargest);
  }
}

// transformers' rule: all that are as large as the last of them are kept, too.
void Sampler::keep_likeliest(std::span<const float> logits, size_t count) {
  const float least = nth_largest(logits, count, values_);
  kept_ = 0;
  for (size_t i = 0; i < logits.size(); ++i)
    if (logits[i] >= least) ids_[kept_] = static_cast<int32_t>(i), weights_[kept_++] = logits[i];
}

// transformers' rule: the smallest set of likeliest tokens whose share reaches `share`. Weights lie in buckets of the
// same leading bits. All of some buckets are kept, one is sorted.
void Sampler::keep_share(double share) {
  constexpr int kDropped = 16;
  const auto bucket_of = [](float weight) { return std::bit_cast<uint32_t>(weight) >> kDropped; };
  buckets_.assign(bucket_of(1) + 1, 0);  // no weight is above 1
  for (size_t i = 0; i < kept_; ++i) buckets_[bucket_of(weights_[i])] += weights_[i];
  // Added in the order of the search, whose last bucket then has weights, however close to 1 the share is.
  const double total = std::accumulate(buckets_.rbegin(), buckets_.rend(), 0.0);
  double reached = 0;
  size_t last = buckets_.size() - 1;
  while (last > 0 && reached + buckets_[last] < share * total) reached += buckets_[last--];

  std::vector<size_t> within;  // places of the weights of the last bucket
  for (size_t i = 0; i < kept_; ++i)
    if (bucket_of(weights_[i]) == last) within.push_back(i);
  std::sort(within.begin(), within.end(),
            [&](size_t a, size_t b) { return weights_[a] != weights_[b] ? weights_[a] > weights_[b] : a < b; });
  size_t taken = 0;
  while (taken < within.size() && reached < share * total) reached += weights_[within[taken++]];
  // The set ends behind this weight, and among equal ones behind this place.
  const size_t end = within[taken - 1];
  const float least = weights_[end];
  size_t kept = 0;
  for (size_t i = 0; i < kept_; ++i)
    if (weights_[i] > least || (weights_[i] == least && i <= end)) ids_[kept] = ids_[i], weights_[kept++] = weights_[i];
  kept_ = kept;
}

Sampler::Kept Sampler::keep(std::span<float> logits) {
  penalise(logits);
  const auto& loops = cpu::loops();
  ids_.resize(logits.size());
  weights_.resize(logits.size());
  const float largest = loops.largest(logits.data(), static_cast<int64_t>(logits.size()));
  const float* values = logits.data();
  const size_t top_k = static_cast<size_t>(config_.top_k);
  kept_ = logits.size();
  if (top_k > 0 && top_k < logits.size()) {
    keep_likeliest(logits, top_k);
    values = weights_.data();
  } else {
    std::iota(ids_.begin(), ids_.end(), 0);
  }
  const double scale = std::min(1 / config_.temperature, double{kLargest});
  double sum =
      loops.exponentials(values, static_cast<int64_t>(kept_), largest, static_cast<float>(scale), weights_.data());
  if (config_.top_p < 1) keep_share(config_.top_p);
  if (config_.min_p > 0) {
    size_t kept = 0;
    for (size_t i = 0; i < kept_; ++i)
      if (weights_[i] >= static_cast<float>(config_.min_p)) ids_[kept] = ids_[i], weights_[kept++] = weights_[i];
    kept_ = kept;
  }
  if (config_.top_p < 1 || config_.min_p > 0)
    sum = std::accumulate(weights_.begin(), weights_.begin() + static_cast<std::ptrdiff_t>(kept_), 0.0);
  return {{ids_.data(), kept_}, {weights_.data(), kept_}, sum};
}

Choice Sampler::choose(std::span<float> logits) {
  const auto& loops = cpu::loops();
  const int64_t count = static_cast<int64_t>(logits.size());
  const float largest = loops.largest(logits.data(), count);
  if (!std::isfinite(largest)) throw std::domain_error("logits are not finite numbers");
  Choice choice;
  double log_sum = 0;
  if (config_.log_probabilities) {
    weights_.resize(logits.size());
    log_sum = largest + std::log(loops.exponentials(logits.data(), count, largest, 1, weights_.data()));
  }
  if (config_.temperature == 0) {
    penalise(logits);
    const float most = loops.largest(logits.data(), count);
    choice.id = static_cast<int32_t>(std::find(logits.begin(), logits.end(), most) - logits.begin());
  } else {
    const Kept kept = keep(logits);
    double draw = static_cast<double>(generator_() >> 11) * 0x1p-53 * kept.sum;
    size_t i = 0;
    while (i + 1 < kept.ids.size() && (draw -= kept.weights[i]) >= 0) ++i;
    while (kept.weights[i] == 0) --i;  // rounding has carried the draw past the last that can be
    choice.id = kept.ids[i];
  }
  if (config_.log_probabilities) {
    const auto repeated = seen_.find(choice.id);
    const float logit = repeated == seen_.end() ? logits[static_cast<size_t>(choice.id)] : repeated->second;
    choice.log_probability = static_cast<float>(logit - log_sum);
  }
  note(choice.id);
  return choice;
}

}  // namespace rankfold
