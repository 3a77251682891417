#include "ops/augmented.h"
#include "ops/ops.h"
#include "ops/rows.h"
#include "ops/rowwise.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace rankfold::ops {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

namespace {

// Heads [count] of a flat tensor, from head `first` on: [T, count, size].
at::Tensor part(const at::Tensor& flat, int64_t first, int64_t count, int64_t size) {
  return flat.narrow(1, first * size, count * size).unflatten(1, {count, size});
}

// q, k (and, where out is another tensor, v) turned to out [T, (query + 2 key_value) * size].
void rotate_by_kernel(const Backend& backend, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                      const at::Tensor& out, const Heads& heads, const Rope& rope, const at::Tensor& positions,
                      float sign) {
  backend.kernels.rope({.dtype = dtype_of(out.scalar_type()),
                        .m = out.size(0),
                        .query_heads = heads.query,
                        .key_value_heads = heads.key_value,
                        .d = heads.size,
                        .q = q.const_data_ptr(),
                        .k = k.const_data_ptr(),
                        .v = v.const_data_ptr(),
                        .ld_q = q.stride(0),
                        .ld_k = k.stride(0),
                        .ld_v = v.stride(0),
                        .out = out.data_ptr(),
                        .ld_out = pitch_of(out),
                        .position_M = positions.const_data_ptr<int64_t>(),
                        .cos = rope.cos.const_data_ptr<float>(),
                        .sin = rope.sin.const_data_ptr<float>(),
                        .sign = sign},
                       backend.stream(out));
}

struct Parts {
  at::Tensor q, k, v;
};
Parts parts_of(const at::Tensor& qkv, const Heads& heads) {
  return {part(qkv, 0, heads.query, heads.size), part(qkv, heads.query, heads.key_value, heads.size),
          part(qkv, heads.query + heads.key_value, heads.key_value, heads.size)};
}

}  // namespace

void rotate(at::Tensor& qkv, const Heads& heads, const Rope& rope, const at::Tensor& positions, float sign) {
  if (const Backend* backend = takes_kernels(qkv)) {
    const auto [q, k, v] = parts_of(qkv, heads);
    return rotate_by_kernel(*backend, q, k, v, qkv, heads, rope, positions, sign);
  }
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

// The CPU path: sequence by sequence. Kept: the result and each sequence's log-sum-exp.
std::vector<at::Tensor> attend_on_cpu(const at::Tensor& turned, const Heads& heads, const Sequences& sequences) {
  at::Tensor out = at::empty({turned.size(0), heads.query * heads.size}, turned.options());
  const int64_t group = heads.query / heads.key_value;
  std::vector<at::Tensor> kept{out};
  const std::vector<int64_t>& begin = sequences.begin;
  for (size_t b = 0; b + 1 < begin.size(); ++b) {
    const auto [q, k, v] = split(turned, heads, begin[b], begin[b + 1]);
    const auto [y, lse] = at::_scaled_dot_product_flash_attention_for_cpu(q, repeat(k, group), repeat(v, group),
                                                                          /*dropout_p=*/0, /*is_causal=*/true);
    heads_of(out, heads, begin[b], begin[b + 1]).copy_(y);
    kept.push_back(lse);
  }
  return kept;
}

at::Tensor attend_backward_on_cpu(const at::Tensor& dy, const at::Tensor& turned, const std::vector<at::Tensor>& kept,
                                  const Heads& heads, const Sequences& sequences) {
  const int64_t group = heads.query / heads.key_value;
  at::Tensor d_qkv = at::empty_like(turned);
  for (size_t b = 0; b + 1 < sequences.begin.size(); ++b) {
    const int64_t begin = sequences.begin[b], end = sequences.begin[b + 1];
    const auto [q, k, v] = split(turned, heads, begin, end);
    const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        heads_of(dy, heads, begin, end), q, repeat(k, group), repeat(v, group), heads_of(kept[0], heads, begin, end),
        kept[1 + b], /*dropout_p=*/0, /*is_causal=*/true);
    const Sequence target = split(d_qkv, heads, begin, end);
    target.q.copy_(dq);
    target.k.copy_(collect(dk, group));
    target.v.copy_(collect(dv, group));
  }
  return d_qkv;
}

struct Held : torch::CustomClassHolder {
  Held(const Heads& heads, Sequences sequences) : heads(heads), sequences(std::move(sequences)) {}
  Heads heads;
  Sequences sequences;
};

// qkv is turned into a buffer of its own, as the caller may still want his; on the way back the kernel turns what the
// attention library returned into the one buffer of d_qkv.
struct Attend : Function<Attend> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv, const Heads& heads, const Rope& rope,
                            const at::Tensor& positions, const Sequences& sequences) {
    at::Tensor turned;
    std::vector<at::Tensor> kept;
    if (const Backend* backend = takes_kernels(qkv)) {
      turned = at::empty(qkv.sizes(), qkv.options());
      const Parts from = parts_of(dense_rows(qkv), heads), to = parts_of(turned, heads);
      rotate_by_kernel(*backend, from.q, from.k, from.v, turned, heads, rope, positions, 1);
      kept = backend->attention(to.q, to.k, to.v, sequences);
    } else {
      turned = qkv.clone(at::MemoryFormat::Contiguous);
      rotate(turned, heads, rope, positions);
      kept = attend_on_cpu(turned, heads, sequences);
    }
    const at::Tensor out = kept[0].view({qkv.size(0), heads.query * heads.size});
    variable_list saved{turned, rope.cos, rope.sin, positions};
    saved.insert(saved.end(), kept.begin(), kept.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["held"] = c10::IValue::make_capsule(c10::make_intrusive<Held>(heads, sequences));
    return out;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const Held& held = static_cast<const Held&>(*ctx->saved_data["held"].toCapsule());
    const Heads& heads = held.heads;
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& turned = saved[0];
    const Rope rope{saved[1], saved[2]};
    const std::vector<at::Tensor> kept(saved.begin() + 4, saved.end());
    if (const Backend* backend = takes_kernels(turned)) {
      const auto [q, k, v] = parts_of(turned, heads);
      const auto [dq, dk, dv] = backend->attention_backward(grads[0].reshape({turned.size(0), heads.query, heads.size}),
                                                            q, k, v, kept, held.sequences);
      const at::Tensor d_qkv = with_room(turned.size(0), turned.size(1), turned.options());
      rotate_by_kernel(*backend, dq, dk, dv, d_qkv, heads, rope, saved[3], -1);
      return {d_qkv, {}, {}, {}, {}};
    }
    at::Tensor d_qkv = attend_backward_on_cpu(grads[0], turned, kept, heads, held.sequences);
    rotate(d_qkv, heads, rope, saved[3], -1);
    return {d_qkv, {}, {}, {}, {}};
  }
};

}  // namespace

at::Tensor attend(const at::Tensor& qkv, const Heads& heads, const Rope& rope, const at::Tensor& positions,
                  const Sequences& sequences) {
  RANKFOLD_CHECK(qkv.dim() == 2 && has_dense_rows(qkv), "attend: qkv must be a matrix with dense rows, got strides ",
                 qkv.strides());
  RANKFOLD_CHECK(qkv.size(1) == (heads.query + 2 * heads.key_value) * heads.size, "attend: expected ",
                 (heads.query + 2 * heads.key_value) * heads.size, " features, got ", qkv.size(1));
  RANKFOLD_CHECK(sequences.begin.back() == qkv.size(0), "attend: offsets must end at ", qkv.size(0));
  return Attend::apply(qkv, heads, rope, positions, sequences);
}

}  // namespace rankfold::ops
