// Kernels that do one thing of ptx.h or philox.h each, for its conformance test: what the instruction does on a device,
// or its twin on the host, against what the test itself computes.
#pragma once

#include "kernels/types.h"

namespace rankfold::kernels::testing {

// wide[i] = to_float(narrow_in[i]), of all `count`; narrow[i] = from_float(wide_in[i]), packed[i] = pack(wide_in[2i],
// wide_in[2i + 1]). dtype: bf16 or f16.
struct Conversions {
  Dtype dtype = Dtype::bf16;
  int64_t narrow_count = 0, wide_count = 0;
  const uint16_t* narrow_in = nullptr;
  float* wide = nullptr;
  const float* wide_in = nullptr;
  uint16_t* narrow = nullptr;
  uint32_t* packed = nullptr;
};
void conversions(const Conversions& p, Stream stream);

// y = to_tf32(x).
struct Tf32 {
  int64_t count = 0;
  const float* x = nullptr;
  float* y = nullptr;
};
void tf32(const Tf32& p, Stream stream);

// exponential = fast_exp(x), reciprocal = fast_reciprocal(x).
struct Approximations {
  int64_t count = 0;
  const float* x = nullptr;
  float* exponential = nullptr;
  float* reciprocal = nullptr;
};
void approximations(const Approximations& p, Stream stream);

// c [16, 8] += a [16, K] b [8, K]^T; K = 16 of bf16 and f16, 8 of f32, which must be tf32 numbers.
struct Product {
  Dtype dtype = Dtype::f32;
  const void* a = nullptr;
  const void* b = nullptr;
  float* c = nullptr;
};
void product(const Product& p, Stream stream);

// One warp: y = x turned over, of [8, 8] 16-bit elements.
struct Turn {
  const uint32_t* x = nullptr;
  uint32_t* y = nullptr;
};
void turn(const Turn& p, Stream stream);

// 64 threads copy `x`, 64 x 8 floats, to shared memory in two groups of four floats each. own: what a thread sees of
// its first group while the second may be under way; all: the whole array in reverse order, after everything.
struct Copies {
  const float* x = nullptr;
  float* own = nullptr;  // 64 x 4
  float* all = nullptr;  // 64 x 8
};
void copies(const Copies& p, Stream stream);

// One warp: y[i] = x[i ^ 5], z[i] = x[(i * 7 + 3) % 32].
struct Shuffles {
  const float* x = nullptr;
  float* y = nullptr;
  float* z = nullptr;
};
void shuffles(const Shuffles& p, Stream stream);

// words[4i ...] = philox(key[i], counter[4i ...]).
struct Random {
  int64_t count = 0;
  const uint64_t* key = nullptr;
  const uint32_t* counter = nullptr;
  uint32_t* words = nullptr;
};
void random_words(const Random& p, Stream stream);

}  // namespace rankfold::kernels::testing
