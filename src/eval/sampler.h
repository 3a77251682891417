// Which token comes next: the logits of one row, made into few candidates without sorting the vocabulary.
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
  float log_probability = 0;  // natural logarithm, by the logits alone; where asked for
};

// Of one completion: every row draws from its own generator, so that its text does not depend on its neighbours. One
// thread at a time. Memory: 8 bytes for each token of the vocabulary, from the first draw on.
class Sampler {
 public:
  // `sample`: its number among those of its prompt, which tells its random numbers from theirs. `prompt`: ids that
  // repetition_penalty counts as said. The config must outlive the sampler.
  Sampler(const GenerateConfig& config, int64_t sample, const std::vector<int32_t>& prompt);

  // `logits` [V] are used up. Throws std::domain_error where one is not finite.
  Choice choose(std::span<float> logits);

  // What choose() draws from: ids in ascending order and their weights, of which the sum is given. Valid until the next
  // call. Temperature 0 has no such set.
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
  std::map<int32_t, float> seen_;  // where repetition costs: ids, and their last logits without the penalty
  std::vector<int32_t> ids_;
  std::vector<float> weights_;
  std::vector<float> values_;
  std::vector<double> buckets_;
  size_t kept_ = 0;
};

}  // namespace rankfold
