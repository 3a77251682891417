// AdamW (Loshchilov and Hutter, 2019) over an adapter's flat buffers: fp32 values, gradient and moments.
#pragma once

#include "model/network.h"
#include "ops/augmented.h"
#include "rankfold/adapter.h"
#include "rankfold/config.h"

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace rankfold {

class AdamW {
 public:
  // `model`: the one that the adapter is attached to. With kernels, a step also writes the low-precision copies.
  AdamW(const CausalLM& model, const Adapter& adapter);

  // Divides the gradient by loss_scale, then scales it down if its norm is above max_norm (0: never). This may happen
  // only in step(). Returns the norm after the division, before clipping.
  double clip(double max_norm, double loss_scale = 1);
  void step(const TrainConfig& config, double learning_rate);
  void zero_gradient() { gradient.zero_(); }

  at::Tensor values, gradient;             // the adapter's own
  at::Tensor first_moment, second_moment;  // [P]
  int64_t steps = 0;                       // taken so far
  int64_t decayed = 0;                     // weight decay applies to the first so many values

 private:
  double gradient_norm();
  void step_by_kernel(const TrainConfig& config, double learning_rate);
  void lay_out();
  std::shared_ptr<Model> model_;
  Adapter adapter_;
  ops::DeviceSegments segments_;           // of every leaf, where kernels take the step
  std::weak_ptr<const Network> laid_out_;  // the network whose low-precision copies segments_ point to
  double gradient_scale_ = 1;
};

}  // namespace rankfold
