// down: makes the input x of a projection, and S = scale * drop(x) A^T in the same pass.
//   x = in (source plain), rms_norm(h) * (gain + gain_offset) (norm), or act(gate) * up (glu)
//   in         [M, K] or [M, 2 K] for glu, row pitch ld_in
//   x          [M, round_up(K, 8)] out, pitch ld_x, pad columns zeroed; null: not written
//   a_RK       [R, round_up(K, 8)] in, pitch ld_a, pad columns zero
//   s_MR       [M, R] out, pitch ld_s: the columns after x, so that [x | S] is one operand; null: not written
//   kept_MR    [M, R] out, pitch ld_kept: a second copy of S, for backward; null: not written
// Source norm also writes rstd_M = 1 / sqrt(mean(h^2) + eps), fp32. Sums are fp32. S uses x as rounded to the dtype.
// Needs ld_x, ld_a, ld_s multiples of 8 and those pointers 16-byte aligned; any M, K, ld_in; R a multiple of 8.
#pragma once

#include "kernels/types.h"

namespace rankfold::kernels {

struct Down {
  Source source = Source::plain;
  Dtype dtype = Dtype::f32;
  int64_t m = 0, k = 0;
  const void* in = nullptr;
  int64_t ld_in = 0;
  const void* gain_K = nullptr;  // norm
  float eps = 0, gain_offset = 0;
  Gate gate = {};  // glu
  float* rstd_M = nullptr;
  void* x = nullptr;
  int64_t ld_x = 0;
  const void* a_RK = nullptr;
  int64_t ld_a = 0;
  void* s_MR = nullptr;
  int64_t ld_s = 0;
  void* kept_MR = nullptr;
  int64_t ld_kept = 0;
  Updates updates = {};
  int64_t shared_limit = 99 * 1024;               // bytes of shared memory that a block may use
  int64_t many_rows = 2 * kMultiprocessors * 16;  // from so many rows on: blocks of 8 warps, not 16
};

void down(const Down& p, Stream stream);

}  // namespace rankfold::kernels
