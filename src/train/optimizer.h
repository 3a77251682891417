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
  // `model` is the one the adapter is attached to: with kernels, a step also writes what they read of the adapter.
  AdamW(const CausalLM& model, const Adapter& adapter);

  // Scales the gradient, which is that of the loss times loss_scale, back and down to max_norm where it is longer (0:
  // never), at the latest in step(); returns the norm in between.
  double clip(double max_norm, double loss_scale = 1);
  void step(const TrainConfig& config, double learning_rate);
  void zero_gradient() { gradient.zero_(); }

  at::Tensor values, gradient;             // the adapter's own
  at::Tensor first_moment, second_moment;  // [P]
  int64_t steps = 0;                       // taken so far
  int64_t decayed = 0;                     // weight decay holds for the first so many

 private:
  double gradient_norm();
  void step_by_kernel(const TrainConfig& config, double learning_rate);
  void lay_out();
  std::shared_ptr<Model> model_;
  Adapter adapter_;
  ops::DeviceSegments segments_;           // of every leaf, where kernels take the step
  std::weak_ptr<const Network> laid_out_;  // the network whose copies of the leaves segments_ name
  double gradient_scale_ = 1;
};

}  // namespace rankfold
