// Dropout masks. They are drawn again at each use and never stored, by Philox 4x32-10 (Salmon et al., "Parallel random
// numbers: as easy as 1, 2, 3", 2011) with key = seed and a counter of four words:
//   row       within the accumulation window
//   position  in the row
//   block     feature / 8 in bits 0 ... 16, module / 4096 in bits 17 ... 20, step / 2^20 in bits 21 ... 31
//   stream    module % 4096 in bits 0 ... 11, step % 2^20 in bits 12 ... 31
// The result is eight 16-bit draws, low half of a word first, for features 8 b ... 8 b + 7. An element is dropped if
// its draw is below threshold = round(p * 65536), at most 65535. Other elements are scaled by
// 1 / (1 - threshold / 65536). So a mask does not depend on the split into micro-batches, on tiles or on the device.
#pragma once

#include "ops/cpu/loops.h"
#include "ops/projection.h"

#include <ATen/core/Tensor.h>

namespace rankfold {

// mask * scale, [T, features] of 0 and 1 / (1 - p), fp32, on the CPU. For tests and namespace reference.
at::Tensor dropout_mask(uint64_t seed, int64_t step, int64_t module, const at::Tensor& rows,
                        const at::Tensor& positions, int64_t features, double p);

namespace ops {

// The part of the counter that all elements of a module's mask share. Only mask_of encodes it; the CPU loops and the
// kernels add feature / 8 to `block`.
struct Mask {
  uint32_t stream = 0, block = 0;
  uint16_t threshold = 0;  // a 16-bit draw below it drops the element; 0: no dropout
  double scale = 1;        // of elements that are not dropped
};
constexpr int64_t kMaskSteps = int64_t{1} << 31, kMaskModules = 1 << 16, kMaskFeatures = 1 << 20;
Mask mask_of(const Pass& pass, int64_t module, int64_t features);

cpu::DropoutCounters dropout_counters(const Pass& pass, int64_t module, int64_t features);
at::Tensor dropout(const at::Tensor& x, const Pass& pass, int64_t module);  // new tensor
}  // namespace ops

}  // namespace rankfold
