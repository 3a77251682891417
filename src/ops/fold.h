// Low-rank updates added to the weight they belong to.
#pragma once

#include "ops/projection.h"

namespace rankfold::ops {

// W + sum of scale * B A as a new tensor. The sum is fp32, some rows at a time, and is rounded once to `dtype`.
at::Tensor fold(FrozenWeight& weight, const std::vector<LowRank>& updates, at::ScalarType dtype);

}  // namespace rankfold::ops
