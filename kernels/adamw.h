// adamw: one step of AdamW (Loshchilov and Hutter, 2019) over a flat fp32 buffer. The same pass writes the
// low-precision copies of the parameters, in the model's dtype, which the other kernels read.
//   g = gradient * gradient_scale;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
//   value = value (1 - rate decay) - rate / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
// A Segment is one parameter [rows, cols], dense in the flat buffers from element `begin` on. Its copy goes to `copy`
// (pitch ld) and, transposed, to `transposed` (pitch ld_transposed); either may be null.
// square_sum: sum of squares of a flat fp32 buffer, in double, in two stages and a fixed order.
#pragma once

#include "kernels/types.h"

namespace rankfold::kernels {

struct Segment {
  int64_t begin = 0;
  int64_t rows = 0, cols = 0;  // fewer than 2^32 elements
  void* copy = nullptr;
  int64_t ld = 0;
  void* transposed = nullptr;
  int64_t ld_transposed = 0;
  int32_t decays = 0;       // not 0: weight decay applies
  int32_t first_block = 0;  // set by lay_out
};

constexpr int64_t kSegmentBlock = 4096;  // elements of a segment that one thread block works on

// Sets first_block of each segment and returns the number of thread blocks. Throws Failure where a segment has 2^32
// elements or more, or where there are more than 2^31 - 1 blocks.
int64_t lay_out(Segment* segments, int64_t count);

struct AdamW {
  Dtype dtype = Dtype::f32;           // of the copies
  const Segment* segments = nullptr;  // device memory
  int64_t segment_count = 0, block_count = 0;
  float *value = nullptr, *gradient = nullptr, *first_moment = nullptr, *second_moment = nullptr;
  float rate = 0, beta1 = 0, beta2 = 0, eps = 0, decay = 0;
  float rest1 = 1, rest2 = 1;              // 1 - b, computed in double
  float correction1 = 1, correction2 = 1;  // 1 - b^t, likewise
  float gradient_scale = 1;
};
void adamw(const AdamW& p, Stream stream);

struct SquareSum {
  int64_t count = 0;
  const float* x = nullptr;
  double* workspace = nullptr;  // kSquareSumBlocks doubles
  double* sum = nullptr;        // one double
};
constexpr int64_t kSquareSumBlocks = 512;
void square_sum(const SquareSum& p, Stream stream);

}  // namespace rankfold::kernels
