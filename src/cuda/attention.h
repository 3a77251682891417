// Causal attention of the CUDA backend, by LibTorch's kernels. ops::Backend says what the functions do.
#pragma once

#include "ops/backend.h"

namespace rankfold::cuda {

std::vector<at::Tensor> attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const AttentionSpec& spec, const Sequences& sequences);
std::tuple<at::Tensor, at::Tensor, at::Tensor> attention_backward(const at::Tensor& dy, const at::Tensor& q,
                                                                  const at::Tensor& k, const at::Tensor& v,
                                                                  const std::vector<at::Tensor>& kept,
                                                                  const AttentionSpec& spec,
                                                                  const Sequences& sequences);
// The kernels that the last call of attention() used; "none yet" before the first.
std::string attention_name();

}  // namespace rankfold::cuda
