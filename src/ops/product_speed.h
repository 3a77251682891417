// How fast this processor multiplies matrices in the dtypes that a model may be computed in.
#pragma once

namespace rankfold::ops {

struct ProductSpeed {  // GFLOP/s
  double float32 = 0, bfloat16 = 0;
};

// Of the CPU path's products (ops/gemm.h). Measured at the first call, for some ten milliseconds. Thread safe.
const ProductSpeed& product_speed();

// A small lead does not count: bfloat16 takes half the memory, and a measurement has noise.
constexpr bool prefers_float32(const ProductSpeed& speed) { return speed.float32 > 1.1 * speed.bfloat16; }

}  // namespace rankfold::ops
