// The ops of a decoder layer. Each is one torch::autograd::Function over flat [T, features] tensors, so it composes
// with a user's own loss. namespace reference defines them in plain ATen, for any dtype; the tests compare with it.
// "Kept" lists what an op saves for backward.
#pragma once

#include "ops/projection.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

namespace rankfold::ops {

// y = x W^T + sum over modules of scale * drop(x) A^T B^T with x = rms_norm(h) * g. It also returns h: use that one for
// the residual stream. Then one backward gets both gradients of h and adds them in one pass.
// h [T, K] -> y [T, N], h [T, K]. Kept: h, rstd, S = scale * drop(x) A^T.
std::pair<at::Tensor, at::Tensor> norm_project(const at::Tensor& h, Norm& norm, Projection& projection,
                                               const Pass& pass);

// y = residual + x W^T + update(x). x [T, K], residual [T, N] or undefined: nothing is added. Kept: S, and x where the
// projection trains.
at::Tensor project_add(const at::Tensor& x, Projection& projection, const at::Tensor& residual, const Pass& pass);

// The same with x = activation(gate) * up; gate_up [T, 2 K]. Kept: gate_up, S.
at::Tensor glu_project_add(const at::Tensor& gate_up, Activation activation, Projection& projection,
                           const at::Tensor& residual, const Pass& pass);

// residual + rms_norm(y) * g, for families that normalise the output y of attention or MLP. y, residual [T, K].
// The graph keeps the norm's owner alive. Kept: y, rstd.
at::Tensor norm_add(const at::Tensor& y, Norm& norm, const at::Tensor& residual, const std::shared_ptr<void>& owner);

// Prepares queries and keys (prepare_qk.h), then computes causal attention within each sequence. lines [T] int64: each
// token's row in rope's tables. qkv [T, (query + 2 key_value) * size] -> [T, query * size]. Kept: prepared qkv, the
// result, its log-sum-exp; with norms also qkv, and the graph keeps their owner alive.
at::Tensor attend(const at::Tensor& qkv, const AttentionSpec& spec, const Rope& rope, const at::Tensor& lines,
                  const Sequences& sequences, const QkNorms& norms = {}, const std::shared_ptr<void>& owner = {});

// Rows of a frozen table [V, K]; tokens [T] int64 -> [T, K]. No gradient.
at::Tensor embed(const at::Tensor& table, const at::Tensor& tokens);

// Sum over labels >= 0 of the negative log-likelihood of softmax(z); scalar, fp32 (double for double). z is
// project(rms_norm(h) * g); with soft_cap above 0 it is soft_cap * tanh(project(...) / soft_cap). It works in chunks of
// tokens with a label >= 0, so logits [T, V] never exist at once. Kept: the gradients themselves. Labels on the CPU
// avoid a host sync on a device.
at::Tensor norm_head_loss(const at::Tensor& h, Norm& norm, Projection& head, const at::Tensor& labels, const Pass& pass,
                          double soft_cap = 0);

// For memory plans: tokens in a chunk of norm_head_loss, and temporary bytes of attend for a longest sequence of so
// many tokens.
int64_t loss_chunk(c10::DeviceType device);
int64_t attention_scratch(at::ScalarType dtype, c10::DeviceType device, int64_t longest, const AttentionSpec& spec);

namespace reference {
at::Tensor rms_norm(const at::Tensor& h, const at::Tensor& g, double eps);
at::Tensor glu(const at::Tensor& gate_up, Activation activation);
at::Tensor cap(const at::Tensor& logits, double soft_cap);  // soft_cap * tanh(logits / soft_cap); 0: the logits
at::Tensor prepare_qk(const at::Tensor& qkv, const AttentionSpec& spec, const Rope& rope, const at::Tensor& lines,
                      const QkNorms& norms = {});  // leaves in qkv's dtype
at::Tensor attend(const at::Tensor& qkv, const AttentionSpec& spec, const Rope& rope, const at::Tensor& lines,
                  const Sequences& sequences, const QkNorms& norms = {});
at::Tensor project(const at::Tensor& x, const Projection& projection, const Pass& pass);  // leaves in x's dtype
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& labels);
}  // namespace reference

}  // namespace rankfold::ops
