// The parts the projection ops are composed of, on plain tensors without autograd.
#pragma once

#include "ops/projection.h"

#include <ATen/core/Tensor.h>

#include <utility>
#include <vector>

namespace rankfold::ops {

// Leaves of a projection in the order in which project_backward gives their gradients: per module master, a, b.
std::vector<at::Tensor> trained_leaves(const Projection& projection);

// y = x W^T + sum of updates; S = scale * drop(x) A^T of each update is appended to kept_s where that is given.
at::Tensor project(const at::Tensor& x, Projection& projection, const Pass& pass, std::vector<at::Tensor>* kept_s);

struct ProjectionGradient {
  at::Tensor dx;                   // [T, K] where asked for
  std::vector<at::Tensor> leaves;  // fp32
};
// x may be undefined where the projection does not train.
ProjectionGradient project_backward(const at::Tensor& dy, const at::Tensor& x, Projection& projection, const Pass& pass,
                                    at::TensorList kept_s, bool needs_dx);

at::Tensor rms_norm(const at::Tensor& h, const at::Tensor& g, double eps, at::Tensor* rstd);
// {dh (+ residual where defined), dg in fp32 where asked for}
std::pair<at::Tensor, at::Tensor> rms_norm_backward(const at::Tensor& dy, const at::Tensor& h, const at::Tensor& g,
                                                    const at::Tensor& rstd, const at::Tensor& residual, bool needs_dg);

}  // namespace rankfold::ops
