// Gradient checkpointing: backward computes the intermediate results of f again instead of keeping them.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace rankfold::ops {

// Returns f(x). Kept: x. f must give the same bytes each time, and everything it refers to must outlive the graph.
// Backward adds the gradients of leaves that f uses to their .grad().
at::Tensor recompute(const at::Tensor& x, std::function<at::Tensor(const at::Tensor&)> f);

}  // namespace rankfold::ops
