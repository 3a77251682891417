#include "ops/dropout.h"

#include "ops/rowwise.h"

#include <ATen/ATen.h>

#include <cmath>

namespace rankfold {
namespace ops {

Mask mask_of(const Pass& pass, int64_t module, int64_t features) {
  if (pass.dropout == 0) return {};
  RANKFOLD_CHECK(pass.step >= 0 && pass.step < kMaskSteps && module >= 0 && module < kMaskModules && features >= 0 &&
                     features <= kMaskFeatures,
                 "dropout: steps lie in [0, ", kMaskSteps, "), modules lie in [0, ", kMaskModules,
                 ") and features number at most ", kMaskFeatures, ", got step ", pass.step, ", module ", module,
                 " and ", features, " features");
  const auto threshold = static_cast<uint16_t>(std::min(std::lround(pass.dropout * 65536), 65535L));
  const auto step = static_cast<uint32_t>(pass.step), index = static_cast<uint32_t>(module);
  return {.stream = step << 12 | (index & 0xfffu),
          .block = step >> 20 << 21 | index >> 12 << 17,
          .threshold = threshold,
          .scale = 65536.0 / (65536 - threshold)};
}

cpu::DropoutCounters dropout_counters(const Pass& pass, int64_t module, int64_t features) {
  const Mask mask = mask_of(pass, module, features);
  return {.row = const_data<int32_t>(pass.rows),
          .position = const_data<int32_t>(pass.positions),
          .key = pass.seed,
          .stream = mask.stream,
          .block = mask.block,
          .threshold = mask.threshold,
          .scale = static_cast<float>(mask.scale)};
}

at::Tensor dropout(const at::Tensor& x, const Pass& pass, int64_t module) {
  at::Tensor y = at::empty_like(x);
  const int64_t k = x.size(1);
  const cpu::DropoutCounters counters = dropout_counters(pass, module, k);
  with_dtype(x.scalar_type(), [&]<class T>(T) {
    for_rows(x.size(0), k, [&](int64_t begin, int64_t end) {
      cpu::DropoutCounters c = counters;
      c.row += begin, c.position += begin;
      cpu::loops().of<T>().dropout(const_data<T>(x) + begin * k, c, end - begin, k, data<T>(y) + begin * k);
    });
  });
  return y;
}

}  // namespace ops

at::Tensor dropout_mask(uint64_t seed, int64_t step, int64_t module, const at::Tensor& rows,
                        const at::Tensor& positions, int64_t features, double p) {
  const auto counters = [](const at::Tensor& x) { return x.to(at::kCPU, at::kInt).contiguous(); };
  const Pass pass{p, seed, step, counters(rows), counters(positions)};
  return ops::dropout(at::ones({rows.size(0), features}), pass, module);
}

}  // namespace rankfold
