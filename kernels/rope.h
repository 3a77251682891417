// rope: turns the pairs (i, i + D/2) of every query and key head by the angle of the token's position; values pass.
//   y_i = x_i cos - x_(i+D/2) sin,   y_(i+D/2) = x_(i+D/2) cos + x_i sin;   sign -1 turns back (the backward pass)
//   q, k, v    [M, heads * D] in, each with its pitch: parts of one buffer, or what an attention library returned
//   out        [M, (query_heads + 2 key_value_heads) * D] out, pitch ld_out: q, k, v side by side; may be q's own
//              buffer: then v is left as it is
//   position_M int64;   cos, sin fp32 [positions, D/2]
#pragma once

#include "kernels/types.h"

namespace rankfold::kernels {

struct Rope {
  Dtype dtype = Dtype::f32;
  int64_t m = 0, query_heads = 0, key_value_heads = 0, d = 0;
  const void *q = nullptr, *k = nullptr, *v = nullptr;
  int64_t ld_q = 0, ld_k = 0, ld_v = 0;
  void* out = nullptr;
  int64_t ld_out = 0;
  const int64_t* position_M = nullptr;
  const float *cos = nullptr, *sin = nullptr;
  float sign = 1;
};

void rope(const Rope& p, Stream stream);

}  // namespace rankfold::kernels
