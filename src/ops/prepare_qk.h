// What lies between the product that makes queries, keys and values and attention: heads of queries and keys are
// normalised where the family does that, then turned by position. Values pass. Training and decoding share it.
#pragma once

#include "ops/backend.h"
#include "ops/projection.h"

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace rankfold::ops {

// Queries, keys, values of flat tokens, each [T, heads, size].
struct QkvParts {
  at::Tensor q, k, v;
  at::Tensor qkv = {};  // the matrix that they are views of; undefined where they lie apart
};
QkvParts parts_of(const at::Tensor& qkv, const Heads& heads);

struct PreparedQk {
  at::Tensor qkv;   // [T, features], a tensor of its own; the given one where nothing happens to it
  at::Tensor rstd;  // [T, query + key_value], fp32 (double for double); undefined without norms
};
PreparedQk prepare_qk(const at::Tensor& qkv, const AttentionSpec& spec, const QkNorms& norms, const Rope& rope,
                      const at::Tensor& lines);

struct PreparedQkGradient {
  at::Tensor d_qkv;
  at::Tensor d_q_gain, d_k_gain;  // fp32 (double for double), where the norms' weights train
};
// `d` are the gradients of what prepare_qk gave, which are used up; qkv and rstd what it was given and gave: read where
// there are norms.
PreparedQkGradient prepare_qk_backward(const QkvParts& d, const at::Tensor& qkv, const at::Tensor& rstd,
                                       const AttentionSpec& spec, const QkNorms& norms, const Rope& rope,
                                       const at::Tensor& lines);

}  // namespace rankfold::ops
