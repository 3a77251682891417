// Causal attention of every kind that an AttentionSpec can describe, out of LibTorch's operators, on any device: for what
// no faster kernel knows. Sums are fp32. Never holds more than the scores of some query rows of one sequence.
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

// Bytes of the scores that its backward holds, where a device's faster kernels do not know such attention; 0 where they do.
int64_t any_attention_scratch(int64_t longest, const AttentionSpec& spec);

}  // namespace rankfold::ops
