// A projection together with the computation of its input: the forward and backward pass that all projection ops use.
// Plain tensors, no autograd. There are two implementations: CPU (project_cpu.cpp) and kernels (project_kernels.cpp).
#pragma once

#include "ops/backend.h"
#include "ops/projection.h"

#include <ATen/core/Tensor.h>

#include <vector>

namespace rankfold::ops {

using kernels::Source;

// How to compute x [T, K] from `in`, by source: plain `in`; norm rms_norm(in); glu activation(gate) * up, in [T, 2 K].
struct Input {
  Source source = Source::plain;
  at::Tensor in;
  Norm* norm = nullptr;
  at::Tensor rstd = {};                      // norm, for project_backward: Projected::rstd
  Activation activation = Activation::silu;  // of glu
};

// The factors of kernels::Gate and cpu::Gate.
struct GateFactors {
  double linear = 1, cubic = 0;
};
// tanh(u) is 2 sigmoid(2 u) - 1, so GELU, x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))), is a sigmoid too.
constexpr GateFactors factors_of(Activation activation) {
  constexpr double kTwoRoots = 1.5957691216057308;  // 2 sqrt(2 / pi)
  return activation == Activation::silu ? GateFactors{} : GateFactors{kTwoRoots, kTwoRoots * 0.044715};
}

struct Projected {
  at::Tensor y;               // [T, N]
  at::Tensor rstd;            // norm: [T] fp32
  std::vector<at::Tensor> s;  // S of the updates, for project_backward
};
// y = x W^T + bias + sum of updates + residual. Undefined terms are left out.
Projected project(const Input& input, Projection& projection, const Pass& pass, const at::Tensor& residual);

struct ProjectedGradient {
  at::Tensor d_in;                 // if needs_d_in
  at::Tensor d_gain;               // fp32, where the norm's weight trains
  std::vector<at::Tensor> leaves;  // fp32, in the order of trained_leaves
};
// d_in is the gradient of `in`, plus `d_residual` where that is defined (norm only). input.in may be undefined if the
// projection does not train and the source does not need it.
ProjectedGradient project_backward(const at::Tensor& dy, const Input& input, Projection& projection, const Pass& pass,
                                   const std::vector<at::Tensor>& s, const at::Tensor& d_residual, bool needs_d_in);

// Leaves of a projection in the order of ProjectedGradient::leaves: trained weights (Module::master), trained biases,
// then a, b of each update.
std::vector<at::Tensor> trained_leaves(const Projection& projection);

namespace on_cpu {
Projected project(const Input& input, Projection& projection, const Pass& pass, const at::Tensor& residual);
ProjectedGradient project_backward(const at::Tensor& dy, const Input& input, Projection& projection, const Pass& pass,
                                   const std::vector<at::Tensor>& s, const at::Tensor& d_residual, bool needs_d_in);
}  // namespace on_cpu

namespace by_kernels {
Projected project(const Backend& backend, const Input& input, Projection& projection, const Pass& pass,
                  const at::Tensor& residual);
ProjectedGradient project_backward(const Backend& backend, const at::Tensor& dy, const Input& input,
                                   Projection& projection, const Pass& pass, const std::vector<at::Tensor>& s,
                                   const at::Tensor& d_residual, bool needs_d_in);
}  // namespace by_kernels

}  // namespace rankfold::ops
