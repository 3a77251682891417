// The step between the qkv projection and attention: head norms of queries and keys where the family has them, then
// rotary positions. Values stay. Training and generation share it.
#pragma once

#include "ops/backend.h"
#include "ops/projection.h"

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace rankfold::ops {

// Queries, keys, values of flat tokens, each [T, heads, size].
struct QkvParts {
  at::Tensor q, k, v;
  at::Tensor qkv = {};  // the matrix that they are views of; undefined if there is none
};
QkvParts parts_of(const at::Tensor& qkv, const Heads& heads);

struct PreparedQk {
  at::Tensor qkv;   // [T, features], a new tensor; the input itself if there is nothing to do
  at::Tensor rstd;  // [T, query + key_value], fp32 (double for double); undefined without norms
};
PreparedQk prepare_qk(const at::Tensor& qkv, const AttentionSpec& spec, const QkNorms& norms, const Rope& rope,
                      const at::Tensor& lines);

struct PreparedQkGradient {
  at::Tensor d_qkv;
  at::Tensor d_q_gain, d_k_gain;  // fp32 (double for double), where the norms' weights train
};
// `d`: gradients of prepare_qk's result; the call may overwrite them. With norms it also reads qkv, prepare_qk's input,
// and rstd, its result.
PreparedQkGradient prepare_qk_backward(const QkvParts& d, const at::Tensor& qkv, const at::Tensor& rstd,
                                       const AttentionSpec& spec, const QkNorms& norms, const Rope& rope,
                                       const at::Tensor& lines);

}  // namespace rankfold::ops
