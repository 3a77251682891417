// Low-rank updates added to the weight they belong to.
#pragma once

#include "ops/projection.h"

namespace rankfold::ops {

// W + sum of scale * B A, in fp32 for some rows at a time, rounded once to `dtype`. A new tensor.
at::Tensor fold(FrozenWeight& weight, const std::vector<LowRank>& updates, at::ScalarType dtype);

}  // namespace rankfold::ops
