// rope: applies rotary positions to queries and keys, and before them norms of heads where there are gains. It copies
// values.
//   without gains   rotates the pairs (i, i + rotary/2) of the first `rotary` features of every query and key head by
//                   the angle of the token's line; the features after them stay
//                   y_i = x_i cos - x_(i+rotary/2) sin,   y_(i+rotary/2) = x_(i+rotary/2) cos + x_i sin
//   with gains      normalises every head first: x_hat = x / sqrt(mean(x^2) + eps) * (gain + gain_offset)
//   sign -1         the backward pass: q, k, v are the gradient of y, out is that of x; with gains it reads x too
//   q, k, v    [M, heads * D] in, each with its pitch; they may be parts of one buffer
//   out        [M, (query_heads + 2 key_value_heads) * D] out, pitch ld_out: q, k, v side by side. Without gains it may
//              be q's own buffer; v then stays as it is
//   from_group, to_group   above 0: the input (at q), or the output, has each key/value head after its query heads, of
//              which there are so many: q ... q k v. Not with gains
//   x          [M, (query_heads + key_value_heads) * D] in, pitch ld_x: with gains and sign -1
//   line_M     int64: the row of cos and sin that a token uses
//   cos, sin   fp32 [lines, rotary/2]
// D - rotary is even.
#pragma once

#include "kernels/types.h"

namespace rankfold::kernels {

struct Rope {
  Dtype dtype = Dtype::f32;
  int64_t m = 0, query_heads = 0, key_value_heads = 0, d = 0, rotary = 0;
  const void *q = nullptr, *k = nullptr, *v = nullptr;
  int64_t ld_q = 0, ld_k = 0, ld_v = 0;
  void* out = nullptr;
  int64_t ld_out = 0;
  const int64_t* line_M = nullptr;
  const float *cos = nullptr, *sin = nullptr;
  float sign = 1;
  int64_t from_group = 0, to_group = 0;
  const void *q_gain_D = nullptr, *k_gain_D = nullptr;  // both or none
  float q_eps = 0, k_eps = 0, gain_offset = 0;
  const void* x = nullptr;
  int64_t ld_x = 0;
};

void rope(const Rope& p, Stream stream);

}  // namespace rankfold::kernels
