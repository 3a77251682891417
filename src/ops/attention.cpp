#include "ops/any_attention.h"
#include "ops/ops.h"
#include "ops/prepare_qk.h"
#include "ops/rows.h"
#include "ops/rowwise.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <numeric>
#include <tuple>

namespace rankfold::ops {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

namespace {

// f(unit, head, scratch) for each key/value head of each sequence, long sequences first so that threads end together.
// A unit is computed by one thread, so that no result depends on how many there are.
template <class T, class F>
void for_attention_units(const at::Tensor& rotated, const at::Tensor& out, const at::Tensor& lse,
                         const AttentionSpec& spec, const Sequences& sequences, bool backward, F&& f) {
  const Heads& heads = spec.heads;
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
        const int64_t head = unit % heads.key_value, row = begin[b], pitch = rotated.size(1);
        if (length(b) == 0) continue;
        const T* rows = const_data<T>(rotated) + row * pitch;
        f(cpu::Attention<T>{.length = length(b),
                            .size = heads.size,
                            .group = group,
                            .scale = spec.scale,
                            .soft_cap = spec.soft_cap,
                            .slopes = spec.slopes.defined() ? const_data<float>(spec.slopes) + head * group : nullptr,
                            .window = spec.window > 0 ? spec.window : length(b),
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
std::vector<at::Tensor> attend_on_cpu(const at::Tensor& rotated, const AttentionSpec& spec,
                                      const Sequences& sequences) {
  const Heads& heads = spec.heads;
  const at::Tensor out = empty_rows(rotated.size(0), heads.query * heads.size, rotated.options());
  const at::Tensor lse =
      at::empty({heads.query, rotated.size(0)}, rotated.options().dtype(sum_dtype(rotated.scalar_type())));
  with_dtype(rotated.scalar_type(), [&]<class T>(T) {
    for_attention_units<T>(rotated, out, lse, spec, sequences, /*backward=*/false,
                           [](const cpu::Attention<T>& unit, int64_t, int64_t, void* scratch) {
                             cpu::loops().of<T>().attention(unit, scratch);
                           });
  });
  return {out, lse};
}

at::Tensor attend_backward_on_cpu(const at::Tensor& dy, const at::Tensor& rotated, const std::vector<at::Tensor>& kept,
                                  const AttentionSpec& spec, const Sequences& sequences) {
  const Heads& heads = spec.heads;
  const at::Tensor d_qkv = empty_rows(rotated.size(0), rotated.size(1), rotated.options());
  const int64_t pitch = d_qkv.size(1), group = heads.query / heads.key_value;
  with_dtype(rotated.scalar_type(), [&]<class T>(T) {
    for_attention_units<T>(rotated, kept[0], kept[1], spec, sequences, /*backward=*/true,
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
  SavedAttention(AttentionSpec spec, const QkNorms& norms, Sequences sequences, std::shared_ptr<void> owner)
      : spec(std::move(spec)), norms(norms), sequences(std::move(sequences)), owner(std::move(owner)) {}
  AttentionSpec spec;
  QkNorms norms;
  Sequences sequences;
  std::shared_ptr<void> owner;  // of the norms
};

// Queries and keys are prepared in a buffer of their own, as the caller may still want his; on the way back what the
// attention library returned goes into the one buffer of d_qkv.
struct Attend : Function<Attend> {
  // inputs: qkv, then the norms' weights where they train
  static at::Tensor forward(AutogradContext* ctx, at::TensorList inputs, const AttentionSpec& spec,
                            const QkNorms& norms, const Rope& rope, const at::Tensor& lines, const Sequences& sequences,
                            const std::shared_ptr<void>& owner) {
    const at::Tensor& qkv = inputs[0];
    const PreparedQk prepared = prepare_qk(qkv, spec, norms, rope, lines);
    std::vector<at::Tensor> kept;
    if (const Backend* backend = backend_for(qkv)) {
      const QkvParts parts = parts_of(prepared.qkv, spec.heads);
      kept = backend->attention(parts.q, parts.k, parts.v, spec, sequences);
    } else {
      kept = attend_on_cpu(prepared.qkv, spec, sequences);
    }
    const at::Tensor out = kept[0].view({qkv.size(0), spec.heads.query * spec.heads.size});
    variable_list saved{prepared.qkv, norms.q ? qkv : at::Tensor(), prepared.rstd, rope.cos, rope.sin, lines};
    saved.insert(saved.end(), kept.begin(), kept.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["arguments"] =
        c10::IValue::make_capsule(c10::make_intrusive<SavedAttention>(spec, norms, sequences, owner));
    return out;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const SavedAttention& arguments = static_cast<const SavedAttention&>(*ctx->saved_data["arguments"].toCapsule());
    const AttentionSpec& spec = arguments.spec;
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& prepared = saved[0];
    const std::vector<at::Tensor> kept(saved.begin() + 6, saved.end());
    QkvParts d;
    if (const Backend* backend = backend_for(prepared)) {
      const QkvParts parts = parts_of(prepared, spec.heads);
      std::tie(d.q, d.k, d.v) =
          backend->attention_backward(grads[0].reshape({prepared.size(0), spec.heads.query, spec.heads.size}), parts.q,
                                      parts.k, parts.v, kept, spec, arguments.sequences);
    } else {
      d = parts_of(attend_backward_on_cpu(dense_rows(grads[0]), prepared, kept, spec, arguments.sequences), spec.heads);
    }
    const PreparedQkGradient gradient =
        prepare_qk_backward(d, saved[1], saved[2], spec, arguments.norms, {saved[3], saved[4]}, saved[5]);
    variable_list result{gradient.d_qkv};
    if (gradient.d_q_gain.defined()) result.insert(result.end(), {gradient.d_q_gain, gradient.d_k_gain});
    result.resize(result.size() + 6);
    return result;
  }
};

}  // namespace

int64_t attention_scratch(at::ScalarType dtype, c10::DeviceType device, int64_t longest, const AttentionSpec& spec) {
  if (backend_of(device)) return any_attention_scratch(longest, spec);
  int64_t bytes = 0;
  with_dtype(dtype, [&]<class T>(T) {
    bytes = at::get_num_threads() * cpu::loops().of<T>().attention_scratch(longest, spec.heads.size, /*backward=*/true);
  });
  return bytes;
}

at::Tensor attend(const at::Tensor& qkv, const AttentionSpec& spec, const Rope& rope, const at::Tensor& lines,
                  const Sequences& sequences, const QkNorms& norms, const std::shared_ptr<void>& owner) {
  RANKFOLD_CHECK(qkv.dim() == 2 && has_dense_rows(qkv), "attend: qkv must be a matrix with dense rows, got strides ",
                 qkv.strides());
  RANKFOLD_CHECK(qkv.size(1) == spec.heads.features(), "attend: expected ", spec.heads.features(), " features, got ",
                 qkv.size(1));
  RANKFOLD_CHECK(spec.rotary % 2 == 0 && spec.rotary <= spec.heads.size &&
                     (spec.rotary == 0 || rope.cos.size(1) == spec.rotary / 2),
                 "attend: ", spec.rotary, " features of ", spec.heads.size, " cannot be rotated by these angles");
  RANKFOLD_CHECK(!spec.is_grouped || !norms.q, "attend: heads in groups cannot be normalised");
  RANKFOLD_CHECK(sequences.begin.back() == qkv.size(0), "attend: offsets must end at ", qkv.size(0));
  variable_list inputs{qkv};
  if (norms.q && norms.q->master.defined()) inputs.insert(inputs.end(), {norms.q->master, norms.k->master});
  return Attend::apply(at::TensorList(inputs), spec, norms, rope, lines, sequences, owner);
}

}  // namespace rankfold::ops
