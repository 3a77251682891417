// Matrix products of the CPU path, by the letters BLAS uses: n as it is, t transposed.
#pragma once

#include <ATen/core/Tensor.h>

namespace rankfold::ops {

at::Tensor gemm_nt(const at::Tensor& x, const at::Tensor& w);   // x [M, K], w [N, K] -> x w^T [M, N]
at::Tensor gemm_nn(const at::Tensor& dy, const at::Tensor& w);  // dy [M, N], w [N, K] -> dy w [M, K]
// dy [M, N], x [M, K] -> dy^T x [N, K] in fp32 (double for double): the gradient of a leaf.
at::Tensor gemm_tn(const at::Tensor& dy, const at::Tensor& x);

}  // namespace rankfold::ops
