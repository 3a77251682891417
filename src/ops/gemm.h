// Matrix products of the CPU path. As in BLAS, n means an operand as it is, t a transposed one.
#pragma once

#include <ATen/core/Tensor.h>

namespace rankfold::ops {

// oneDNN compiles and caches code for each number of rows. To keep these few, x from empty_rows (rowwise.h) is
// multiplied with its spare rows, and the result has spare rows too.
// x [M, K], w [N, K], bias [N] or undefined -> x w^T + bias [M, N]
at::Tensor gemm_nt(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias = {});
at::Tensor gemm_nn(const at::Tensor& dy, const at::Tensor& w);  // dy [M, N], w [N, K] -> dy w [M, K]
// dy [M, N], x [M, K] -> dy^T x [N, K], the gradient of a leaf. Sums are fp32, rounded once to the dtype of dy and x;
// the result is fp32 (double for double).
at::Tensor gemm_tn(const at::Tensor& dy, const at::Tensor& x);

}  // namespace rankfold::ops
