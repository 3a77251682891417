#include "ops/finite.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace rankfold::ops {

bool all_finite(const at::Tensor& values) {
  constexpr int64_t kBlock = 1 << 22;
  const at::Tensor flat = values.detach().flatten();
  for (int64_t begin = 0; begin < flat.numel(); begin += kBlock)
    if (!flat.narrow(0, begin, std::min(kBlock, flat.numel() - begin)).isfinite().all().item<bool>()) return false;
  return true;
}

}  // namespace rankfold::ops
