#include "model/rope.h"

#include "core/check.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rankfold {
namespace {

// theta^(i / rotary) of each pair, whose inverse is its frequency. In fp32, as transformers computes it, so that long
// positions agree with it.
std::vector<float> wave_lengths(double theta, int64_t rotary) {
  std::vector<float> waves;
  for (int64_t i = 0; i < rotary; i += 2)
    waves.push_back(std::pow(static_cast<float>(theta), static_cast<float>(i) / static_cast<float>(rotary)));
  return waves;
}

// llama3: long waves are stretched by the factor, short ones are not, those between partly.
void stretch_as_llama3(const RopeParameters& p, std::vector<float>& frequencies) {
  const double original = static_cast<double>(p.original_max_position_embeddings);
  const auto longest = static_cast<float>(original / p.low_freq_factor);
  const auto shortest = static_cast<float>(original / p.high_freq_factor);
  const auto factor = static_cast<float>(p.factor);
  for (float& x : frequencies) {
    const float wave = static_cast<float>(2 * std::numbers::pi) / x;
    if (wave < shortest) continue;
    if (wave > longest) {
      x /= factor;
      continue;
    }
    const float smooth = (static_cast<float>(original) / wave - static_cast<float>(p.low_freq_factor)) /
                         static_cast<float>(p.high_freq_factor - p.low_freq_factor);
    x = (1 - smooth) * x / factor + smooth * x;
  }
}

// yarn: a ramp over the features from frequencies as they are to frequencies divided by the factor.
std::vector<float> yarn_frequencies(const RopeParameters& p, int64_t rotary, const std::vector<float>& waves) {
  const auto feature_of = [&](double turns) {
    const double original = static_cast<double>(p.original_max_position_embeddings);
    return static_cast<double>(rotary) * std::log(original / (turns * 2 * std::numbers::pi)) / (2 * std::log(p.theta));
  };
  double low = feature_of(p.beta_fast), high = feature_of(p.beta_slow);
  if (p.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, static_cast<double>(rotary - 1));
  if (low == high) high += 0.001;
  std::vector<float> frequencies;
  for (size_t i = 0; i < waves.size(); ++i) {
    const float ramp =
        std::clamp((static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0f, 1.0f);
    const float kept = 1 - ramp;
    frequencies.push_back(1.0f / (static_cast<float>(p.factor) * waves[i]) * (1 - kept) + 1.0f / waves[i] * kept);
  }
  return frequencies;
}

double yarn_magnitude(double factor, double scale) { return factor <= 1 ? 1 : 0.1 * scale * std::log(factor) + 1; }

double magnitude_of(const RopeParameters& p) {
  if (p.attention_factor > 0) return p.attention_factor;
  if (p.type == RopeType::yarn) {
    if (p.mscale != 0 && p.mscale_all_dim != 0)
      return yarn_magnitude(p.factor, p.mscale) / yarn_magnitude(p.factor, p.mscale_all_dim);
    return yarn_magnitude(p.factor, 1);
  }
  if (p.type == RopeType::longrope && p.factor > 1)
    return std::sqrt(1 + std::log(p.factor) / std::log(static_cast<double>(p.original_max_position_embeddings)));
  return 1;
}

}  // namespace

RopeTable::RopeTable(const RopeParameters& parameters, int64_t rotary, at::Device device)
    : parameters_(parameters), rotary_(rotary), magnitude_(magnitude_of(parameters)), device_(device) {}

int64_t RopeTable::kind_of(int64_t length) const {
  const bool is_long = length > parameters_.original_max_position_embeddings;
  if (parameters_.type == RopeType::longrope) return is_long ? 1 : 0;
  if (parameters_.type == RopeType::dynamic) return is_long ? length : 0;
  return 0;
}

std::vector<float> RopeTable::frequencies(int64_t kind) const {
  const RopeParameters& p = parameters_;
  double theta = p.theta;
  if (p.type == RopeType::dynamic && kind > 0) {
    const double stretch =
        p.factor * static_cast<double>(kind) / static_cast<double>(p.original_max_position_embeddings) - (p.factor - 1);
    theta *= std::pow(stretch, static_cast<double>(rotary_) / static_cast<double>(rotary_ - 2));
  }
  const std::vector<float> waves = wave_lengths(theta, rotary_);
  if (p.type == RopeType::yarn) return yarn_frequencies(p, rotary_, waves);
  const std::vector<double>& factors = kind == 0 ? p.short_factor : p.long_factor;
  std::vector<float> frequencies;
  for (size_t i = 0; i < waves.size(); ++i)
    frequencies.push_back(1.0f /
                          (p.type == RopeType::longrope ? static_cast<float>(factors.at(i)) * waves[i] : waves[i]));
  if (p.type == RopeType::linear)
    for (float& x : frequencies) x /= static_cast<float>(p.factor);
  if (p.type == RopeType::llama3) stretch_as_llama3(p, frequencies);
  return frequencies;
}

const Rope& RopeTable::table(int64_t kind, int64_t positions) {
  Rope& rope = tables_[kind];
  if (rope.cos.defined() && rope.cos.size(0) >= positions) return rope;
  const std::vector<float> inverse = frequencies(kind);
  const auto half = static_cast<int64_t>(inverse.size());
  // Room for longer rows, but where each length has a table of its own.
  const bool grows = parameters_.type != RopeType::dynamic || kind == 0;
  const int64_t lines = grows ? std::max<int64_t>(64, positions + positions / 2) : positions;
  at::Tensor cos = at::empty({lines, half}), sin = at::empty({lines, half});
  for (int64_t p = 0; p < lines; ++p)
    for (int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(p) * inverse[static_cast<size_t>(i)];
      cos.data_ptr<float>()[p * half + i] = std::cos(angle) * static_cast<float>(magnitude_);
      sin.data_ptr<float>()[p * half + i] = std::sin(angle) * static_cast<float>(magnitude_);
    }
  rope = {cos.to(device_, /*non_blocking=*/true), sin.to(device_, /*non_blocking=*/true)};
  return rope;
}

Angles RopeTable::of(const at::Tensor& positions, const std::vector<int64_t>& offsets) {
  constexpr size_t kMostKinds = 8;  // that are kept from batch to batch: of dynamic, one for each length
  if (tables_.size() > kMostKinds) tables_.clear();
  std::map<int64_t, int64_t> longest;  // by kind
  std::vector<int64_t> kinds;
  for (size_t b = 0; b + 1 < offsets.size(); ++b) {
    const int64_t count = offsets[b + 1] - offsets[b];
    const int64_t length = count == 0 ? 0 : positions.narrow(0, offsets[b], count).max().item<int64_t>() + 1;
    kinds.push_back(kind_of(length));
    int64_t& most = longest[kinds.back()];
    most = std::max(most, length);
  }
  if (longest.size() == 1)
    return {table(longest.begin()->first, longest.begin()->second), positions.to(device_, /*non_blocking=*/true)};
  // Rows of several kinds: their tables one after the other, each row's lines counted from the begin of its own.
  std::vector<at::Tensor> cos, sin;
  std::map<int64_t, int64_t> begins;
  int64_t begin = 0;
  for (const auto& [kind, most] : longest) {
    const Rope& rope = table(kind, most);
    cos.push_back(rope.cos.narrow(0, 0, most)), sin.push_back(rope.sin.narrow(0, 0, most));
    begins[kind] = begin;
    begin += most;
  }
  const at::Tensor lines = positions.clone();
  for (size_t b = 0; b < kinds.size(); ++b)
    lines.narrow(0, offsets[b], offsets[b + 1] - offsets[b]).add_(begins.at(kinds[b]));
  return {{at::cat(cos), at::cat(sin)}, lines.to(device_, /*non_blocking=*/true)};
}

}  // namespace rankfold
