// AdamW (Loshchilov and Hutter, 2019) over an adapter's flat buffers: fp32 values, gradient and moments.
#pragma once

#include "rankfold/adapter.h"
#include "rankfold/config.h"

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace rankfold {

struct AdamW {
  explicit AdamW(const Adapter& adapter);

  // Scales the gradient down to max_norm where it is longer (0: never); returns its norm before.
  double clip(double max_norm);
  void step(const TrainConfig& config, double learning_rate);
  void zero_gradient() { gradient.zero_(); }

  at::Tensor values, gradient;             // the adapter's own
  at::Tensor first_moment, second_moment;  // [P]
  int64_t steps = 0;                       // taken so far
  int64_t decayed = 0;                     // weight decay holds for the first so many
};

}  // namespace rankfold
