// The definitions: plain ATen, any device and dtype, differentiable.
#include "ops/dropout.h"
#include "ops/ops.h"

#include <ATen/ATen.h>

#include <cmath>

namespace rankfold::ops::reference {

at::Tensor rms_norm(const at::Tensor& h, const at::Tensor& g, double eps) {
  return h * (h.square().mean(-1, true) + eps).rsqrt() * g;
}

at::Tensor glu(const at::Tensor& gate_up, Activation activation) {
  const auto parts = gate_up.chunk(2, -1);
  return (activation == Activation::silu ? at::silu(parts[0]) : at::gelu(parts[0], "tanh")) * parts[1];
}

at::Tensor cap(const at::Tensor& logits, double soft_cap) {
  return soft_cap > 0 ? (logits / soft_cap).tanh() * soft_cap : logits;
}

at::Tensor prepare_qk(const at::Tensor& qkv_in, const AttentionSpec& spec, const Rope& rope, const at::Tensor& lines,
                      const QkNorms& norms) {
  const auto [query, key_value, size] = spec.heads;
  at::Tensor qkv = qkv_in;
  if (spec.is_grouped) {
    const int64_t group = query / key_value;
    const at::Tensor groups = qkv.view({qkv.size(0), key_value, group + 2, size});
    qkv = at::cat({groups.narrow(2, 0, group).flatten(1), groups.narrow(2, group, 1).flatten(1),
                   groups.narrow(2, group + 1, 1).flatten(1)},
                  1);
  }
  const auto part = [&](int64_t first, int64_t count) {
    return qkv.narrow(1, first * size, count * size).view({qkv.size(0), count, size});
  };
  const auto prepared = [&](at::Tensor x, const Norm* norm) {
    if (norm) {
      const at::Tensor gain = norm->master.defined() ? norm->master : norm->weight;
      x = rms_norm(x, gain.to(x.scalar_type()) + norm->gain_offset, norm->eps);
    }
    if (spec.rotary == 0) return x.flatten(1);
    const at::Tensor cos = rope.cos.index_select(0, lines).to(x.scalar_type()).unsqueeze(1);
    const at::Tensor sin = rope.sin.index_select(0, lines).to(x.scalar_type()).unsqueeze(1);
    const auto halves = x.narrow(2, 0, spec.rotary).chunk(2, -1);
    return at::cat({halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin,
                    x.narrow(2, spec.rotary, size - spec.rotary)},
                   -1)
        .flatten(1);
  };
  return at::cat({prepared(part(0, query), norms.q), prepared(part(query, key_value), norms.k),
                  part(query + key_value, key_value).flatten(1)},
                 1);
}

at::Tensor attend(const at::Tensor& qkv, const AttentionSpec& spec, const Rope& rope, const at::Tensor& lines,
                  const Sequences& sequences, const QkNorms& norms) {
  const std::vector<int64_t>& offsets = sequences.begin;
  const at::Tensor prepared = reference::prepare_qk(qkv, spec, rope, lines, norms);
  const Heads& heads = spec.heads;
  const int64_t group = heads.query / heads.key_value;
  std::vector<at::Tensor> rows;
  for (size_t b = 0; b + 1 < offsets.size(); ++b) {
    const int64_t length = offsets[b + 1] - offsets[b];
    const at::Tensor x = prepared.narrow(0, offsets[b], length).view({length, -1, heads.size}).transpose(0, 1);
    const at::Tensor q = x.narrow(0, 0, heads.query);
    const at::Tensor k = x.narrow(0, heads.query, heads.key_value).repeat_interleave(group, 0);
    const at::Tensor v = x.narrow(0, heads.query + heads.key_value, heads.key_value).repeat_interleave(group, 0);
    const at::Tensor everything = at::ones({length, length}, qkv.options().dtype(at::kBool));
    at::Tensor unseen = everything.triu(1);
    if (spec.window > 0) unseen = unseen.logical_or(everything.tril(-spec.window));
    at::Tensor scores = at::matmul(q, k.transpose(1, 2)) * spec.scale;
    scores = cap(scores, spec.soft_cap);
    if (spec.slopes.defined()) {
      const at::Tensor position = at::arange(length, qkv.options());
      scores = scores - spec.slopes.to(qkv.options()).view({-1, 1, 1}) * (position.unsqueeze(1) - position);
    }
    rows.push_back(
        at::matmul(scores.masked_fill(unseen, -INFINITY).softmax(-1), v).transpose(0, 1).reshape({length, -1}));
  }
  return at::cat(rows);
}

at::Tensor project(const at::Tensor& x, const Projection& projection, const Pass& pass) {
  const at::Tensor frozen = projection.frozen->copy();
  std::vector<at::Tensor> parts;
  for (const Module& m : projection.modules) {
    const at::Tensor w = m.master.defined() ? m.master : frozen.narrow(0, m.begin, m.end - m.begin);
    at::Tensor weight = w.to(x.scalar_type());
    if (projection.has_unit_rows && m.master.defined()) weight = weight / row_norms(weight);
    at::Tensor y = at::linear(x, weight);
    if (m.bias_master.defined())
      y = y + m.bias_master.to(x.scalar_type());
    else if (projection.bias.defined())
      y = y + projection.bias.narrow(0, m.begin, m.end - m.begin).to(x.scalar_type());
    for (const LowRank& u : projection.updates) {
      if (u.begin != m.begin) continue;
      at::Tensor dropped = x;
      if (pass.dropout > 0)
        dropped = x * dropout_mask(pass.seed, pass.step, u.index, pass.rows, pass.positions, x.size(1), pass.dropout)
                          .to(x.device(), x.scalar_type());
      y = y + at::linear(at::linear(dropped, u.a.to(x.scalar_type())), u.b.to(x.scalar_type())) * u.scale;
    }
    parts.push_back(y);
  }
  return at::cat(parts, 1);
}

at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& labels) {
  const at::Tensor which = labels.ge(0).nonzero().squeeze(1);
  const at::Tensor kept = logits.index_select(0, which);
  return -kept.log_softmax(-1).gather(1, labels.index_select(0, which).unsqueeze(1)).sum();
}

}  // namespace rankfold::ops::reference
