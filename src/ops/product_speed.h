// How fast this processor multiplies matrices in the dtypes that a model may be computed in.
#pragma once

namespace rankfold::ops {

struct ProductSpeed {  // GFLOP/s
  double float32 = 0, bfloat16 = 0;
};

// The speed of the CPU path's products (ops/gemm.h). The first call measures for about ten milliseconds.
// Thread-safe.
const ProductSpeed& product_speed();

// A lead of 10 % or less does not count: bfloat16 takes half the memory, and a measurement has noise.
constexpr bool prefers_float32(const ProductSpeed& speed) { return speed.float32 > 1.1 * speed.bfloat16; }

}  // namespace rankfold::ops
