// input_grad: turns dX = dY W into the gradient of the tensor that x was computed from, and computes dA. It recomputes
// x from the tensor saved by the forward pass, and draws the dropout mask again.
//   dx = dX + mask * (dS A)                         adds the low-rank part
//   dA = dS^T (mask * x)
//   plain    dX becomes dx in place
//   norm     dh = residual + rstd * (dx g - h rstd^2 mean(dx g h)), g = gain + gain_offset;
//            dgain = sum over rows of dx h rstd
//   glu      dgate = dx up act'(gate), dup = dx act(gate)
//   in         saved by the forward pass: x or h [M, K], gate_up [M, 2 K]; pitch ld_in
//   dx         [M, K] in (plain: in and out), pitch ld_dx; null: only dA is wanted
//   ds_MR      [M, R], pitch ld_ds; includes the factor scale / (1 - p)
//   at_KR      [K, R] A transposed, pitch ld_at; null: dX has the low-rank part already, as after [dY | dS] . [W; A]
//   residual   [M, K], pitch ld_residual, or null
//   out        [M, K] or [M, 2 K], pitch ld_out; norm stores dx here in between: it must not overlap other operands
//   da_RK      [R, K] out, dense, fp32; null: not wanted;    dgain_K fp32 out; null: not wanted
// Sums have two stages: fp32 partial sums in `workspace`, then their sum in a fixed order; no atomics. Norm works
// through the rows in slices that fit the L2 cache. Its first kernel reads dX and h from memory for the sums, its
// second reads h and dx from the L2.
// Needs at_KR and ds_MR 16-byte aligned, ld_at and ld_ds multiples of 8; any M, K and pitches; R a multiple of 8.
#pragma once

#include "kernels/types.h"

namespace rankfold::kernels {

struct InputGrad {
  Source source = Source::plain;
  Dtype dtype = Dtype::f32;
  int64_t m = 0, k = 0;
  const void* in = nullptr;
  int64_t ld_in = 0;
  const void* gain_K = nullptr;  // norm
  const float* rstd_M = nullptr;
  float gain_offset = 0;
  Gate gate = {};  // glu
  void* dx = nullptr;
  int64_t ld_dx = 0;
  const void* ds_MR = nullptr;
  int64_t ld_ds = 0;
  const void* at_KR = nullptr;
  int64_t ld_at = 0;
  const void* residual = nullptr;
  int64_t ld_residual = 0;
  void* out = nullptr;
  int64_t ld_out = 0;
  float* da_RK = nullptr;
  float* dgain_K = nullptr;
  Updates updates = {};
  float* workspace = nullptr;       // input_grad_workspace(p) bytes
  int64_t cached_bytes = 16 << 20;  // norm: of dX and h together in a slice of rows
};

int64_t input_grad_workspace(const InputGrad& p);
void input_grad(const InputGrad& p, Stream stream);

}  // namespace rankfold::kernels
