#include "ops/ops.h"
#include "ops/rowwise.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace rankfold::ops {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

void rotate(at::Tensor& qkv, const Heads& heads, const Rope& rope, const at::Tensor& positions, float sign) {
  const int64_t pitch = qkv.size(1);
  with_dtype(qkv.scalar_type(), [&]<class T>(T) {
    for_rows(qkv.size(0), pitch, [&](int64_t begin, int64_t end) {
      // q and k lie side by side: one call turns the heads of both.
      cpu::loops().of<T>().rope(data<T>(qkv) + begin * pitch, pitch, const_data<int64_t>(positions) + begin,
                                const_data<float>(rope.cos), const_data<float>(rope.sin), end - begin,
                                heads.query + heads.key_value, heads.size, sign);
    });
  });
}

namespace {

// Views [1, heads, length, size] of one sequence's part of a flat tensor.
struct Sequence {
  at::Tensor q, k, v;
};
Sequence split(const at::Tensor& qkv, const Heads& heads, int64_t begin, int64_t end) {
  const at::Tensor rows = qkv.narrow(0, begin, end - begin);
  const auto part = [&](int64_t first, int64_t count) {
    return rows.narrow(1, first * heads.size, count * heads.size)
        .view({end - begin, count, heads.size})
        .transpose(0, 1)
        .unsqueeze(0);
  };
  return {part(0, heads.query), part(heads.query, heads.key_value),
          part(heads.query + heads.key_value, heads.key_value)};
}
// Each key/value head serves `group` neighbouring query heads.
at::Tensor repeat(const at::Tensor& x, int64_t group) { return group == 1 ? x : x.repeat_interleave(group, 1); }
at::Tensor collect(const at::Tensor& x, int64_t group) {
  return group == 1 ? x : x.unflatten(1, {x.size(1) / group, group}).sum(2);
}
at::Tensor heads_of(const at::Tensor& flat, const Heads& heads, int64_t begin, int64_t end) {
  return flat.narrow(0, begin, end - begin).view({end - begin, heads.query, heads.size}).transpose(0, 1).unsqueeze(0);
}

struct Attend : Function<Attend> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv, const Heads& heads, const Rope& rope,
                            const at::Tensor& positions, const std::vector<int64_t>& offsets) {
    at::Tensor turned = qkv.clone();
    rotate(turned, heads, rope, positions);
    at::Tensor out = at::empty({qkv.size(0), heads.query * heads.size}, qkv.options());
    const int64_t group = heads.query / heads.key_value;
    variable_list kept{turned, out, rope.cos, rope.sin, positions};
    for (size_t b = 0; b + 1 < offsets.size(); ++b) {
      const auto [q, k, v] = split(turned, heads, offsets[b], offsets[b + 1]);
      const auto [y, lse] = at::_scaled_dot_product_flash_attention_for_cpu(q, repeat(k, group), repeat(v, group),
                                                                            /*dropout_p=*/0, /*is_causal=*/true);
      heads_of(out, heads, offsets[b], offsets[b + 1]).copy_(y);
      kept.push_back(lse);
    }
    ctx->save_for_backward(std::move(kept));
    ctx->saved_data["heads"] = std::vector<int64_t>{heads.query, heads.key_value, heads.size};
    ctx->saved_data["offsets"] = offsets;
    return out;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &turned = saved[0], &out = saved[1];
    const std::vector<int64_t> h = ctx->saved_data["heads"].toIntVector();
    const std::vector<int64_t> offsets = ctx->saved_data["offsets"].toIntVector();
    const Heads heads{h[0], h[1], h[2]};
    const int64_t group = heads.query / heads.key_value;
    at::Tensor d_qkv = at::empty_like(turned);
    for (size_t b = 0; b + 1 < offsets.size(); ++b) {
      const int64_t begin = offsets[b], end = offsets[b + 1];
      const auto [q, k, v] = split(turned, heads, begin, end);
      const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
          heads_of(grads[0], heads, begin, end), q, repeat(k, group), repeat(v, group),
          heads_of(out, heads, begin, end), saved[5 + b], /*dropout_p=*/0, /*is_causal=*/true);
      const Sequence target = split(d_qkv, heads, begin, end);
      target.q.copy_(dq);
      target.k.copy_(collect(dk, group));
      target.v.copy_(collect(dv, group));
    }
    rotate(d_qkv, heads, {saved[2], saved[3]}, saved[4], -1);
    return {d_qkv, {}, {}, {}, {}};
  }
};

}  // namespace

at::Tensor attend(const at::Tensor& qkv, const Heads& heads, const Rope& rope, const at::Tensor& positions,
                  const std::vector<int64_t>& offsets) {
  RANKFOLD_CHECK(qkv.is_contiguous(), "attend: qkv must be contiguous, got strides ", qkv.strides());
  RANKFOLD_CHECK(qkv.size(1) == (heads.query + 2 * heads.key_value) * heads.size, "attend: expected ",
                 (heads.query + 2 * heads.key_value) * heads.size, " features, got ", qkv.size(1));
  RANKFOLD_CHECK(!offsets.empty() && offsets.back() == qkv.size(0), "attend: offsets must end at ", qkv.size(0));
  return Attend::apply(qkv, heads, rope, positions, offsets);
}

}  // namespace rankfold::ops
