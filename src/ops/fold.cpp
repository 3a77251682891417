#include "ops/fold.h"

#include "core/row_chunks.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>

namespace rankfold::ops {

at::Tensor fold(const at::Tensor& weight, const std::vector<LowRank>& updates) {
  constexpr int64_t kBlockElements = 1 << 22;  // of fp32 work at a time: 16 MiB
  const at::NoGradGuard no_grad;
  at::Tensor folded = at::empty(weight.sizes(), weight.options());
  for_row_chunks(weight.size(0), weight.size(1), kBlockElements, [&](int64_t row, int64_t count) {
    at::Tensor block =
        weight.narrow(0, row, count).to(at::promote_types(weight.scalar_type(), at::kFloat), false, true);
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
