// Low-rank updates added to the weight they belong to.
#pragma once

#include "ops/projection.h"

namespace rankfold::ops {

// W + sum of scale * B A, in fp32 for some rows at a time, rounded once to the dtype of W. A new tensor.
at::Tensor fold(const at::Tensor& weight, const std::vector<LowRank>& updates);

}  // namespace rankfold::ops
