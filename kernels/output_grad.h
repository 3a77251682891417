// output_grad: one pass over dY [M, N] gives   dS = scale * dY B   and   dB = dY^T S
//   dy         [M, N], pitch ld_dy
//   bt_RN      [R, round_up(N, 8)] in, pitch ld_bt: B transposed, pad columns zero
//   kept_MR    [M, R] in, pitch ld_kept: S of the forward pass
//   ds_MR      [M, R] out, pitch ld_ds (dense, or the columns after dY for [dY | dS] . [W; A])
//   db_NR      [N, R] out, pitch ld_db, fp32
// Both sums have two stages: fp32 partial sums in `workspace`, which a second kernel adds in a fixed order; no atomics.
// The division into partial sums depends on the shape alone, so every device adds in the same order.
// Needs bt_RN, kept_MR 16-byte aligned, ld_bt and ld_kept multiples of 8; any M, N, ld_dy; R a multiple of 8.
#pragma once

#include "kernels/types.h"

namespace rankfold::kernels {

struct OutputGrad {
  Dtype dtype = Dtype::f32;
  int64_t m = 0, n = 0;
  const void* dy = nullptr;
  int64_t ld_dy = 0;
  const void* bt_RN = nullptr;
  int64_t ld_bt = 0;
  const void* kept_MR = nullptr;
  int64_t ld_kept = 0;
  void* ds_MR = nullptr;
  int64_t ld_ds = 0;
  float* db_NR = nullptr;
  int64_t ld_db = 0;
  Updates updates = {};
  float* workspace = nullptr;  // output_grad_workspace(p) bytes
};

int64_t output_grad_workspace(const OutputGrad& p);
void output_grad(const OutputGrad& p, Stream stream);

}  // namespace rankfold::kernels
