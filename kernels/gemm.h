// gemm: D = op(A) op(B) + beta C, column-major as in BLAS. cuBLASLt computes it on a device, a host function in the
// tests (tests/fused). op(A) [m, k], op(B) [k, n], C and D [m, n]; C may be another matrix than D. Sums are fp32.
// A row-major y [M, N] = x [M, K] W [N, K]^T is: m = N, n = M, k = K, a = W with transpose_a, b = x, d = y.
#pragma once

#include "kernels/types.h"

namespace rankfold::kernels {

struct Gemm {
  Dtype dtype = Dtype::f32;      // of A and B
  Dtype dtype_out = Dtype::f32;  // of C and D: dtype, or f32
  bool transpose_a = false, transpose_b = false;
  int64_t m = 0, n = 0, k = 0;
  const void* a = nullptr;
  int64_t lda = 0;
  const void* b = nullptr;
  int64_t ldb = 0;
  const void* c = nullptr;  // read where beta is not 0
  int64_t ldc = 0;
  void* d = nullptr;
  int64_t ldd = 0;
  float beta = 0;
};
void gemm(const Gemm& p, Stream stream);

}  // namespace rankfold::kernels
