// The definitions: plain ATen, any device and dtype, differentiable.
#include "ops/dropout.h"
#include "ops/ops.h"

#include <ATen/ATen.h>

#include <cmath>

namespace rankfold::ops::reference {

at::Tensor rms_norm(const at::Tensor& h, const at::Tensor& g, double eps) {
  return h * (h.square().mean(-1, true) + eps).rsqrt() * g;
}

at::Tensor swiglu(const at::Tensor& gate_up) {
  const auto parts = gate_up.chunk(2, -1);
  return at::silu(parts[0]) * parts[1];
}

at::Tensor rope(const at::Tensor& x, const Heads& heads, const Rope& rope, const at::Tensor& positions) {
  const int64_t turned = heads.query + heads.key_value;
  const at::Tensor cos = rope.cos.index_select(0, positions).to(x.scalar_type()).unsqueeze(1);
  const at::Tensor sin = rope.sin.index_select(0, positions).to(x.scalar_type()).unsqueeze(1);
  const auto halves = x.narrow(1, 0, turned * heads.size).view({x.size(0), turned, heads.size}).chunk(2, -1);
  const at::Tensor result =
      at::cat({halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin}, -1).flatten(1);
  return at::cat({result, x.narrow(1, turned * heads.size, heads.key_value * heads.size)}, 1);
}

at::Tensor attend(const at::Tensor& qkv, const Heads& heads, const Rope& rope, const at::Tensor& positions,
                  const Sequences& sequences) {
  const std::vector<int64_t>& offsets = sequences.begin;
  const at::Tensor turned = reference::rope(qkv, heads, rope, positions);
  const int64_t group = heads.query / heads.key_value;
  std::vector<at::Tensor> rows;
  for (size_t b = 0; b + 1 < offsets.size(); ++b) {
    const int64_t length = offsets[b + 1] - offsets[b];
    const at::Tensor x = turned.narrow(0, offsets[b], length).view({length, -1, heads.size}).transpose(0, 1);
    const at::Tensor q = x.narrow(0, 0, heads.query);
    const at::Tensor k = x.narrow(0, heads.query, heads.key_value).repeat_interleave(group, 0);
    const at::Tensor v = x.narrow(0, heads.query + heads.key_value, heads.key_value).repeat_interleave(group, 0);
    const at::Tensor future = at::ones({length, length}, qkv.options().dtype(at::kBool)).triu(1);
    const at::Tensor scores =
        at::matmul(q, k.transpose(1, 2)).div(std::sqrt(static_cast<double>(heads.size))).masked_fill(future, -INFINITY);
    rows.push_back(at::matmul(scores.softmax(-1), v).transpose(0, 1).reshape({length, -1}));
  }
  return at::cat(rows);
}

at::Tensor project(const at::Tensor& x, const Projection& projection, const Pass& pass) {
  std::vector<at::Tensor> parts;
  for (const Module& m : projection.modules) {
    const at::Tensor w = m.master.defined() ? m.master : projection.frozen->value.narrow(0, m.begin, m.end - m.begin);
    at::Tensor y = at::linear(x, w.to(x.scalar_type()));
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
