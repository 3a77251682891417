#include "ops/augmented.h"
#include "ops/ops.h"
#include "ops/rows.h"
#include "ops/rowwise.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>

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

namespace {

// to = from with its q and k rotated; may be from itself.
void rotate_on_cpu(const at::Tensor& from, const at::Tensor& to, const Heads& heads, const Rope& rope,
                   const at::Tensor& positions, float sign) {
  const int64_t width = to.size(1);
  with_dtype(from.scalar_type(), [&]<class T>(T) {
    for_rows(from.size(0), width, [&](int64_t begin, int64_t end) {
      // q and k lie side by side: one call turns the heads of both.
      cpu::loops().of<T>().rope(const_data<T>(from) + begin * pitch_of(from), pitch_of(from),
                                const_data<int64_t>(positions) + begin, const_data<float>(rope.cos),
                                const_data<float>(rope.sin), end - begin, heads.query + heads.key_value,
                                heads.key_value, heads.size, sign, data<T>(to) + begin * width);
    });
  });
}

}  // namespace

void rotate(at::Tensor& qkv, const Heads& heads, const Rope& rope, const at::Tensor& positions, float sign) {
  if (const Backend* backend = backend_for(qkv)) {
    const auto [q, k, v] = parts_of(qkv, heads);
    return rotate_by_kernel(*backend, q, k, v, qkv, heads, rope, positions, sign);
  }
  rotate_on_cpu(qkv, qkv, heads, rope, positions, sign);
}

namespace {

// f(unit, head, scratch) for each key/value head of each sequence, long sequences first so that threads end together.
// A unit is computed by one thread, so that no result depends on how many there are.
template <class T, class F>
void for_attention_units(const at::Tensor& turned, const at::Tensor& out, const at::Tensor& lse, const Heads& heads,
                         const Sequences& sequences, bool backward, F&& f) {
  const std::vector<int64_t>& begin = sequences.begin;
  std::vector<size_t> order(begin.size() - 1);
  std::iota(order.begin(), order.end(), size_t{0});
  const auto length = [&](size_t b) { return begin[b + 1] - begin[b]; };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return length(a) > length(b); });
  const int64_t units = static_cast<int64_t>(order.size()) * heads.key_value, group = heads.query / heads.key_value;
  const int64_t threads = std::min<int64_t>(units, at::get_num_threads());
  const auto& table = cpu::loops().of<T>();
  const ThreadScratch scratch(table.attention_scratch(sequences.longest, heads.size, backward));
  std::atomic<int64_t> next = 0;
  at::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    for (int64_t thread = first; thread < last; ++thread)
      for (int64_t unit; (unit = next++) < units;) {
        const size_t b = order[static_cast<size_t>(unit / heads.key_value)];
        const int64_t head = unit % heads.key_value, row = begin[b], pitch = turned.size(1);
        if (length(b) == 0) continue;
        const T* rows = const_data<T>(turned) + row * pitch;
        f(cpu::Attention<T>{.length = length(b),
                            .size = heads.size,
                            .group = group,
                            .scale = 1 / std::sqrt(static_cast<double>(heads.size)),
                            .q = rows + head * group * heads.size,
                            .k = rows + (heads.query + head) * heads.size,
                            .v = rows + (heads.query + heads.key_value + head) * heads.size,
                            .pitch = pitch,
                            .out = data<T>(out) + row * out.size(1) + head * group * heads.size,
                            .out_pitch = out.size(1),
                            .lse = data<typename cpu::SumOf<T>::type>(lse) + head * group * lse.size(1) + row,
                            .lse_pitch = lse.size(1)},
          row, head, scratch.mine());
      }
  });
}

// The CPU path. Kept: the result and the log-sum-exp of each query head and token.
std::vector<at::Tensor> attend_on_cpu(const at::Tensor& turned, const Heads& heads, const Sequences& sequences) {
  const at::Tensor out = empty_rows(turned.size(0), heads.query * heads.size, turned.options());
  const at::Tensor lse =
      at::empty({heads.query, turned.size(0)}, turned.options().dtype(sum_dtype(turned.scalar_type())));
  with_dtype(turned.scalar_type(), [&]<class T>(T) {
    for_attention_units<T>(turned, out, lse, heads, sequences, /*backward=*/false,
                           [](const cpu::Attention<T>& unit, int64_t, int64_t, void* scratch) {
                             cpu::loops().of<T>().attention(unit, scratch);
                           });
  });
  return {out, lse};
}

at::Tensor attend_backward_on_cpu(const at::Tensor& dy, const at::Tensor& turned, const std::vector<at::Tensor>& kept,
                                  const Heads& heads, const Sequences& sequences) {
  const at::Tensor d_qkv = empty_rows(turned.size(0), turned.size(1), turned.options());
  const int64_t pitch = d_qkv.size(1), group = heads.query / heads.key_value;
  with_dtype(turned.scalar_type(), [&]<class T>(T) {
    for_attention_units<T>(turned, kept[0], kept[1], heads, sequences, /*backward=*/true,
                           [&](const cpu::Attention<T>& unit, int64_t row, int64_t head, void* scratch) {
                             T* rows = data<T>(d_qkv) + row * pitch;
                             cpu::loops().of<T>().attention_backward(
                                 unit,
                                 {.d_out = const_data<T>(dy) + row * pitch_of(dy) + head * group * heads.size,
                                  .d_out_pitch = pitch_of(dy),
                                  .dq = rows + head * group * heads.size,
                                  .dk = rows + (heads.query + head) * heads.size,
                                  .dv = rows + (heads.query + heads.key_value + head) * heads.size,
                                  .pitch = pitch},
                                 scratch);
                           });
  });
  return d_qkv;
}

struct SavedAttention : torch::CustomClassHolder {
  SavedAttention(const Heads& heads, Sequences sequences) : heads(heads), sequences(std::move(sequences)) {}
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
    if (const Backend* backend = backend_for(qkv)) {
      turned = at::empty(qkv.sizes(), qkv.options());
      const Parts from = parts_of(dense_rows(qkv), heads), to = parts_of(turned, heads);
      rotate_by_kernel(*backend, from.q, from.k, from.v, turned, heads, rope, positions, 1);
      kept = backend->attention(to.q, to.k, to.v, sequences);
    } else {
      turned = at::empty(qkv.sizes(), qkv.options());
      rotate_on_cpu(qkv, turned, heads, rope, positions, 1);
      kept = attend_on_cpu(turned, heads, sequences);
    }
    const at::Tensor out = kept[0].view({qkv.size(0), heads.query * heads.size});
    variable_list saved{turned, rope.cos, rope.sin, positions};
    saved.insert(saved.end(), kept.begin(), kept.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["arguments"] = c10::IValue::make_capsule(c10::make_intrusive<SavedAttention>(heads, sequences));
    return out;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const SavedAttention& arguments = static_cast<const SavedAttention&>(*ctx->saved_data["arguments"].toCapsule());
    const Heads& heads = arguments.heads;
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& turned = saved[0];
    const Rope rope{saved[1], saved[2]};
    const std::vector<at::Tensor> kept(saved.begin() + 4, saved.end());
    if (const Backend* backend = backend_for(turned)) {
      const auto [q, k, v] = parts_of(turned, heads);
      const auto [dq, dk, dv] = backend->attention_backward(grads[0].reshape({turned.size(0), heads.query, heads.size}),
                                                            q, k, v, kept, arguments.sequences);
      const at::Tensor d_qkv = with_spare_columns(turned.size(0), turned.size(1), turned.options());
      rotate_by_kernel(*backend, dq, dk, dv, d_qkv, heads, rope, saved[3], -1);
      return {d_qkv, {}, {}, {}, {}};
    }
    const at::Tensor d_qkv = attend_backward_on_cpu(dense_rows(grads[0]), turned, kept, heads, arguments.sequences);
    rotate_on_cpu(d_qkv, d_qkv, heads, rope, saved[3], -1);
    return {d_qkv, {}, {}, {}, {}};
  }
};

}  // namespace

int64_t attention_scratch(at::ScalarType dtype, c10::DeviceType device, int64_t longest, int64_t head_size) {
  if (backend_of(device)) return 0;
  int64_t bytes = 0;
  with_dtype(dtype, [&]<class T>(T) {
    bytes = at::get_num_threads() * cpu::loops().of<T>().attention_scratch(longest, head_size, /*backward=*/true);
  });
  return bytes;
}

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
