// Trading time for memory: what f computes on the way is not kept for backward but computed again there.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace rankfold::ops {

// f(x). Kept: x. f must give the same bytes again, and what it refers to must outlive the graph. Gradients of leaves
// that f uses are added to their .grad() while backward runs.
at::Tensor recompute(const at::Tensor& x, std::function<at::Tensor(const at::Tensor&)> f);

}  // namespace rankfold::ops
