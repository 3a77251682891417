#include "ops/fold.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>

namespace rankfold::ops {

at::Tensor fold(const at::Tensor& weight, const std::vector<LowRank>& updates) {
  constexpr int64_t kBlockElements = 1 << 22;
  const at::NoGradGuard no_grad;
  at::Tensor folded = at::empty(weight.sizes(), weight.options());
  const int64_t rows = weight.size(0),
                step = std::max<int64_t>(1, kBlockElements / std::max<int64_t>(1, weight.size(1)));
  for (int64_t row = 0; row < rows; row += step) {
    const int64_t end = std::min(row + step, rows);
    at::Tensor block =
        weight.narrow(0, row, end - row).to(at::promote_types(weight.scalar_type(), at::kFloat), false, true);
    for (const LowRank& u : updates) {
      const int64_t first = std::max(row, u.begin), last = std::min(end, u.end);
      if (first >= last) continue;
      block.narrow(0, first - row, last - first).add_(u.b.narrow(0, first - u.begin, last - first).mm(u.a), u.scale);
    }
    folded.narrow(0, row, end - row).copy_(block);
  }
  return folded;
}

}  // namespace rankfold::ops
