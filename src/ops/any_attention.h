// Causal attention from LibTorch's operators, for every AttentionSpec and device: the fallback where no faster kernel
// fits. Sums are fp32. It computes some query rows of one sequence at a time, so their scores bound its memory.
#pragma once

#include "ops/projection.h"

#include <ATen/core/Tensor.h>

#include <tuple>
#include <vector>

namespace rankfold::ops {

// q [T, query heads, D], k and v [T, key/value heads, D], prepared -> {out [T, query heads, D]}
std::vector<at::Tensor> any_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      const AttentionSpec& spec, const Sequences& sequences);
// dq, dk, dv, each as q, k, v.
std::tuple<at::Tensor, at::Tensor, at::Tensor> any_attention_backward(const at::Tensor& dy, const at::Tensor& q,
                                                                      const at::Tensor& k, const at::Tensor& v,
                                                                      const AttentionSpec& spec,
                                                                      const Sequences& sequences);

// Bytes of scores that the backward pass allocates at most; 0 where a device has faster kernels for this attention.
int64_t any_attention_scratch(int64_t longest, const AttentionSpec& spec);

}  // namespace rankfold::ops
