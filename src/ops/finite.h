// Whether every value of a tensor is finite, in blocks: ATen's isfinite makes several tensors of its argument's size.
#pragma once

#include <ATen/core/Tensor.h>

namespace rankfold::ops {

bool all_finite(const at::Tensor& values);

}  // namespace rankfold::ops
