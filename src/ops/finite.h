// Whether every value of a tensor is finite. It works in blocks, because ATen's isfinite allocates several tensors of
// its argument's size.
#pragma once

#include <ATen/core/Tensor.h>

namespace rankfold::ops {

bool all_finite(const at::Tensor& values);

}  // namespace rankfold::ops
