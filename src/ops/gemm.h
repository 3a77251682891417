// Matrix products of the CPU path, by the letters BLAS uses: n as it is, t transposed.
#pragma once

#include <ATen/core/Tensor.h>

namespace rankfold::ops {

// oneDNN compiles code for each number of rows and keeps it: x from empty_rows (rowwise.h) is multiplied with its spare
// rows, and so is the result, which has them too.
// x [M, K], w [N, K], bias [N] or undefined -> x w^T + bias [M, N]
at::Tensor gemm_nt(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias = {});
at::Tensor gemm_nn(const at::Tensor& dy, const at::Tensor& w);  // dy [M, N], w [N, K] -> dy w [M, K]
// dy [M, N], x [M, K] -> dy^T x [N, K], the gradient of a leaf: summed in fp32, rounded once to the dtype of dy and x,
// given as fp32 (double for double).
at::Tensor gemm_tn(const at::Tensor& dy, const at::Tensor& x);

}  // namespace rankfold::ops
