#include "ops/fold.h"

#include "core/row_chunks.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>

namespace rankfold::ops {

at::Tensor fold(FrozenWeight& weight, const std::vector<LowRank>& updates, at::ScalarType dtype) {
  constexpr int64_t kBlockElements = 1 << 22;  // of fp32 work at a time: 16 MiB
  const at::NoGradGuard no_grad;
  const auto options = at::TensorOptions(weight.device());
  const at::Tensor folded = at::empty({weight.rows(), weight.columns()}, options.dtype(dtype));
  for_row_chunks(weight.rows(), weight.columns(), kBlockElements, [&](int64_t row, int64_t count) {
    const at::Tensor block =
        at::empty({count, weight.columns()}, options.dtype(at::promote_types(weight.dtype(), at::kFloat)));
    weight.copy_rows(row, block);
    for (const LowRank& u : updates) {
      const int64_t first = std::max(row, u.begin), last = std::min(row + count, u.end);
      if (first >= last) continue;
      block.narrow(0, first - row, last - first).add_(u.b.narrow(0, first - u.begin, last - first).mm(u.a), u.scale);
    }
    folded.narrow(0, row, count).copy_(block);
  });
  return folded;
}

}  // namespace rankfold::ops
