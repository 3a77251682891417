// Chooses the next token from the logits of one row. It narrows them to a few candidates without sorting the
// vocabulary.
#pragma once

#include "rankfold/generate.h"

#include <cstdint>
#include <map>
#include <random>
#include <span>
#include <vector>

namespace rankfold {

struct Choice {
  int32_t id = 0;
  float log_probability = 0;  // natural logarithm, of the unmodified logits; only if asked for
};

// The sampler of one completion. Every row has its own generator, so its text does not depend on other rows. Not
// thread-safe. Memory: 8 bytes for each token of the vocabulary, from the first draw on.
class Sampler {
 public:
  // `sample`: the number of this completion among those of its prompt; it selects the random numbers. `prompt`: ids
  // that repetition_penalty counts as repeated. The config must outlive the sampler.
  Sampler(const GenerateConfig& config, int64_t sample, const std::vector<int32_t>& prompt);

  // Overwrites `logits` [V]. Throws std::domain_error if one is not finite.
  Choice choose(std::span<float> logits);

  // The candidates that choose() draws from: ids in ascending order, their weights, and the sum of these. Valid until
  // the next call. Not for temperature 0.
  struct Kept {
    std::span<const int32_t> ids;
    std::span<const float> weights;
    double sum = 0;
  };
  Kept keep(std::span<float> logits);

 private:
  void note(int32_t id);  // from now on it is one of the repeated
  void penalise(std::span<float> logits);
  void keep_likeliest(std::span<const float> logits, size_t count);
  void keep_share(double share);

  const GenerateConfig& config_;
  std::mt19937_64 generator_;
  std::map<int32_t, float> seen_;  // with a repetition penalty: ids, and their last logits without the penalty
  std::vector<int32_t> ids_;
  std::vector<float> weights_;
  std::vector<float> values_;
  std::vector<double> buckets_;
  size_t kept_ = 0;
};

}  // namespace rankfold
