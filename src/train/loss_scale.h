// The factor on a float16 model's loss that keeps small gradients from vanishing (Micikevicius et al. 2018), with the
// numbers of torch.amp.GradScaler. It is a power of two, so dividing by it is exact.
#pragma once

#include <algorithm>
#include <cstdint>

namespace rankfold {

struct LossScale {
  static constexpr double kStart = 65536;
  static constexpr int64_t kGrowthSteps = 2000;

  double value = 1;   // 1: the model needs no scale, or the scale cannot fall further
  int64_t steps = 0;  // without an overflow since it last changed

  void overflowed() { value = std::max(1.0, value / 2), steps = 0; }
  void counted() {
    if (++steps == kGrowthSteps) value *= 2, steps = 0;
  }
};

}  // namespace rankfold
