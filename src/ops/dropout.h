// Dropout masks that nobody stores: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011)
// with key = seed and counter = (row within the accumulation window, position in the row, feature / 8, stream), where
// stream = step * 4096 + module. The four words give eight 16-bit draws, low half first, for features 8 b ... 8 b + 7.
// An element is dropped when its draw is below round(p * 65536), at most 65535; what is kept is scaled by 1 / (1 - p) of the p so
// realised. A mask therefore depends neither on the split into micro-batches nor on tiling nor on the device.
#pragma once

#include "ops/cpu/loops.h"
#include "ops/projection.h"

#include <ATen/core/Tensor.h>

namespace rankfold {

// mask * scale as a tensor [T, features] of 0 and 1 / (1 - p), fp32, on the CPU: for tests and for the reference.
at::Tensor dropout_mask(uint64_t seed, int64_t step, int64_t module, const at::Tensor& rows,
                        const at::Tensor& positions, int64_t features, double p);

namespace ops {
cpu::DropoutCounters dropout_counters(const Pass& pass, int64_t module);
at::Tensor dropout(const at::Tensor& x, const Pass& pass, int64_t module);  // new tensor
}  // namespace ops

}  // namespace rankfold
