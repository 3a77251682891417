#include "ops/prepare_qk.h"

#include "core/check.h"
#include "ops/augmented.h"
#include "ops/rows.h"
#include "ops/rowwise.h"

#include <ATen/ATen.h>

#include <cstring>

namespace rankfold::ops {
namespace {

// Heads [count] of a flat tensor, from head `first` on: [T, count, size].
at::Tensor heads_of(const at::Tensor& flat, int64_t first, int64_t count, int64_t size) {
  return flat.narrow(1, first * size, count * size).unflatten(1, {count, size});
}

bool does_nothing(const AttentionSpec& spec, const QkNorms& norms) {
  return spec.rotary == 0 && !norms.q && !spec.is_grouped;
}

int64_t queries_per_key(const Heads& heads) { return heads.query / heads.key_value; }

// Whether the gain trains.
bool trains(const Norm* norm) { return norm && norm->master.defined(); }

// ---- By kernels

struct Gains {  // in the model's dtype, kept alive while a kernel reads them
  at::Tensor q, k;

  explicit Gains(const QkNorms& norms) {
    if (norms.q) q = norms.q->current_weight(), k = norms.k->current_weight();
  }
};

void run_kernel(const Backend& backend, const QkvParts& from, const at::Tensor& out, const AttentionSpec& spec,
                const QkNorms& norms, const Gains& gains, const Rope& rope, const at::Tensor& lines, float sign,
                const at::Tensor& x) {
  kernels::Rope r{.dtype = dtype_of(out.scalar_type()),
                  .m = out.size(0),
                  .query_heads = spec.heads.query,
                  .key_value_heads = spec.heads.key_value,
                  .d = spec.heads.size,
                  .rotary = spec.rotary,
                  .q = from.q.const_data_ptr(),
                  .k = from.k.const_data_ptr(),
                  .v = from.v.const_data_ptr(),
                  .ld_q = from.q.stride(0),
                  .ld_k = from.k.stride(0),
                  .ld_v = from.v.stride(0),
                  .out = out.data_ptr(),
                  .ld_out = pitch_of(out),
                  .line_M = lines.const_data_ptr<int64_t>(),
                  .sign = sign};
  if (spec.is_grouped) (sign > 0 ? r.from_group : r.to_group) = queries_per_key(spec.heads);
  if (spec.rotary > 0) r.cos = rope.cos.const_data_ptr<float>(), r.sin = rope.sin.const_data_ptr<float>();
  if (norms.q) {
    r.q_gain_D = gains.q.const_data_ptr(), r.k_gain_D = gains.k.const_data_ptr();
    r.q_eps = static_cast<float>(norms.q->eps), r.k_eps = static_cast<float>(norms.k->eps);
    r.gain_offset = static_cast<float>(norms.q->gain_offset);
    if (x.defined()) r.x = x.const_data_ptr(), r.ld_x = pitch_of(x);
  }
  with_op_name("attend", [&] { backend.kernels.rope(r, backend.stream(out)); });
}

// Sum over tokens and heads of dy * x / rms(x): only norms that train ask for it, so no kernel of its own.
at::Tensor gain_gradient(const at::Tensor& dy, const at::Tensor& x_in, const Norm& norm) {
  const at::Tensor x = x_in.to(at::kFloat);
  const at::Tensor rstd = x.square().mean(-1, true).add_(norm.eps).rsqrt_();
  return dy.to(at::kFloat).mul(x).mul_(rstd).sum(at::IntArrayRef{0, 1});
}

PreparedQkGradient back_by_kernels(const Backend& backend, const QkvParts& d, const at::Tensor& qkv,
                                   const AttentionSpec& spec, const QkNorms& norms, const Rope& rope,
                                   const at::Tensor& lines) {
  const int64_t tokens = d.q.size(0);
  PreparedQkGradient gradient;
  gradient.d_qkv = with_spare_columns(tokens, spec.heads.features(), d.q.options());
  if (does_nothing(spec, norms)) {
    const QkvParts to = parts_of(gradient.d_qkv, spec.heads);
    to.q.copy_(d.q), to.k.copy_(d.k), to.v.copy_(d.v);
    return gradient;
  }
  const at::Tensor x = norms.q ? dense_rows(qkv) : qkv;
  if (trains(norms.q)) {
    const at::Tensor rotated_back = at::empty({tokens, spec.heads.features()}, d.q.options());
    run_kernel(backend, d, rotated_back, spec, {}, Gains({}), rope, lines, -1, {});
    const QkvParts dy = parts_of(rotated_back, spec.heads), from = parts_of(x, spec.heads);
    gradient.d_q_gain = gain_gradient(dy.q, from.q, *norms.q);
    gradient.d_k_gain = gain_gradient(dy.k, from.k, *norms.k);
  }
  run_kernel(backend, d, gradient.d_qkv, spec, norms, Gains(norms), rope, lines, -1, x);
  return gradient;
}

// ---- On the CPU

// to = from, q and k rotated; may be from itself.
void rotate(const at::Tensor& from, const at::Tensor& to, const AttentionSpec& spec, const Rope& rope,
            const at::Tensor& lines, float sign) {
  if (spec.rotary == 0) return;
  const int64_t width = to.size(1);
  with_dtype(from.scalar_type(), [&]<class T>(T) {
    for_rows(from.size(0), width, [&](int64_t begin, int64_t end) {
      // q and k lie side by side: one call turns the heads of both.
      cpu::loops().of<T>().rope(const_data<T>(from) + begin * pitch_of(from), pitch_of(from),
                                const_data<int64_t>(lines) + begin, const_data<float>(rope.cos),
                                const_data<float>(rope.sin), end - begin, spec.heads.query + spec.heads.key_value,
                                spec.heads.key_value, spec.heads.size, spec.rotary, sign, data<T>(to) + begin * width,
                                width);
    });
  });
}

// From heads in groups (AttentionSpec::is_grouped) to a matrix where all queries come first, rotated, or back.
void regroup(const at::Tensor& from, const at::Tensor& to, const AttentionSpec& spec, const Rope& rope,
             const at::Tensor& lines, float sign) {
  const Heads& heads = spec.heads;
  const int64_t group = queries_per_key(heads), size = heads.size, from_pitch = pitch_of(from), to_pitch = pitch_of(to);
  with_dtype(from.scalar_type(), [&]<class T>(T) {
    for_rows(from.size(0), heads.features(), [&](int64_t begin, int64_t end) {
      const auto move = [&](int64_t grouped, int64_t apart, int64_t rotated, int64_t plain) {
        const int64_t source = sign > 0 ? grouped : apart, target = sign > 0 ? apart : grouped;
        cpu::loops().of<T>().rope(const_data<T>(from) + begin * from_pitch + source * size, from_pitch,
                                  const_data<int64_t>(lines) + begin, const_data<float>(rope.cos),
                                  const_data<float>(rope.sin), end - begin, rotated, plain, size, spec.rotary, sign,
                                  data<T>(to) + begin * to_pitch + target * size, to_pitch);
      };
      for (int64_t g = 0; g < heads.key_value; ++g) {
        const int64_t first = g * (group + 2);
        move(first, g * group, group, 0);
        move(first + group, heads.query + g, 1, 0);
        move(first + group + 1, heads.query + heads.key_value + g, 0, 1);
      }
    });
  });
}

// f(norm, its first head, how many heads) for q's and k's.
template <class F>
void for_norms(const Heads& heads, const QkNorms& norms, F&& f) {
  f(*norms.q, int64_t{0}, heads.query);
  f(*norms.k, heads.query, heads.key_value);
}

PreparedQk prepare_on_cpu(const at::Tensor& qkv, const AttentionSpec& spec, const QkNorms& norms, const Rope& rope,
                          const at::Tensor& lines) {
  PreparedQk prepared{at::empty(qkv.sizes(), qkv.options()), {}};
  if (spec.is_grouped) {
    regroup(qkv, prepared.qkv, spec, rope, lines, 1);
    return prepared;
  }
  if (!norms.q) {
    rotate(qkv, prepared.qkv, spec, rope, lines, 1);
    return prepared;
  }
  const Heads& heads = spec.heads;
  const int64_t rotated = heads.query + heads.key_value, width = heads.features(), size = heads.size;
  prepared.rstd = at::empty({qkv.size(0), rotated}, qkv.options().dtype(sum_dtype(qkv.scalar_type())));
  with_dtype(qkv.scalar_type(), [&]<class T>(T) {
    using Sum = typename cpu::LoopTable<T>::Sum;
    for_norms(heads, norms, [&](Norm& norm, int64_t first, int64_t count) {
      const at::Tensor gain = norm.current_weight();
      for_rows(qkv.size(0), width, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t)
          cpu::loops().of<T>().rms_norm(const_data<T>(qkv) + t * pitch_of(qkv) + first * size, const_data<T>(gain),
                                        norm.gain_offset, norm.eps, count, size,
                                        data<T>(prepared.qkv) + t * width + first * size,
                                        data<Sum>(prepared.rstd) + t * rotated + first);
      });
    });
    for_rows(qkv.size(0), width, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        std::memcpy(data<T>(prepared.qkv) + t * width + rotated * size,
                    const_data<T>(qkv) + t * pitch_of(qkv) + rotated * size,
                    static_cast<size_t>(heads.key_value * size) * sizeof(T));
    });
  });
  rotate(prepared.qkv, prepared.qkv, spec, rope, lines, 1);
  return prepared;
}

PreparedQkGradient back_on_cpu(const at::Tensor& d_qkv, const at::Tensor& qkv, const at::Tensor& rstd,
                               const AttentionSpec& spec, const QkNorms& norms, const Rope& rope,
                               const at::Tensor& lines) {
  if (spec.is_grouped) {
    const at::Tensor grouped = empty_rows(d_qkv.size(0), d_qkv.size(1), d_qkv.options());
    regroup(d_qkv, grouped, spec, rope, lines, -1);
    return {grouped, {}, {}};
  }
  PreparedQkGradient gradient{d_qkv, {}, {}};
  rotate(d_qkv, d_qkv, spec, rope, lines, -1);
  if (!norms.q) return gradient;
  const Heads& heads = spec.heads;
  const int64_t rotated = heads.query + heads.key_value, width = heads.features(), size = heads.size;
  const int64_t tokens = qkv.size(0);
  with_dtype(qkv.scalar_type(), [&]<class T>(T) {
    using Sum = typename cpu::LoopTable<T>::Sum;
    for_norms(heads, norms, [&](Norm& norm, int64_t first, int64_t count) {
      const at::Tensor gain = norm.current_weight();
      // The gain's gradient: partial sums over blocks of rows, added in order.
      const at::Tensor partial =
          trains(&norm) ? at::zeros({(tokens + kRowBlock - 1) / kRowBlock, size}, rstd.options()) : at::Tensor();
      for_row_blocks(tokens, width, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
          T* d = data<T>(d_qkv) + t * width + first * size;
          cpu::loops().of<T>().rms_norm_backward(
              d, const_data<T>(qkv) + t * pitch_of(qkv) + first * size, const_data<T>(gain), norm.gain_offset,
              const_data<Sum>(rstd) + t * rotated + first,
              /*residual=*/nullptr, count, size, d,
              trains(&norm) ? data<Sum>(partial) + begin / kRowBlock * size : nullptr);
        }
      });
      if (trains(&norm)) (&norm == norms.q ? gradient.d_q_gain : gradient.d_k_gain) = partial.sum(0);
    });
  });
  return gradient;
}

}  // namespace

QkvParts parts_of(const at::Tensor& qkv, const Heads& heads) {
  return {heads_of(qkv, 0, heads.query, heads.size), heads_of(qkv, heads.query, heads.key_value, heads.size),
          heads_of(qkv, heads.query + heads.key_value, heads.key_value, heads.size), qkv};
}

PreparedQk prepare_qk(const at::Tensor& qkv_in, const AttentionSpec& spec, const QkNorms& norms, const Rope& rope,
                      const at::Tensor& lines) {
  const at::Tensor qkv = dense_rows(qkv_in);
  if (does_nothing(spec, norms)) return {qkv, {}};
  const Backend* backend = backend_for(qkv);
  if (!backend) return prepare_on_cpu(qkv, spec, norms, rope, lines);
  const at::Tensor out = at::empty(qkv.sizes(), qkv.options());
  run_kernel(*backend, parts_of(qkv, spec.heads), out, spec, norms, Gains(norms), rope, lines, 1, {});
  return {out, {}};
}

PreparedQkGradient prepare_qk_backward(const QkvParts& d, const at::Tensor& qkv, const at::Tensor& rstd,
                                       const AttentionSpec& spec, const QkNorms& norms, const Rope& rope,
                                       const at::Tensor& lines) {
  if (const Backend* backend = backend_for(d.q)) return back_by_kernels(*backend, d, qkv, spec, norms, rope, lines);
  return back_on_cpu(d.qkv, qkv, rstd, spec, norms, rope, lines);
}

}  // namespace rankfold::ops
