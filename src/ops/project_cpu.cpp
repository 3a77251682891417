// The CPU path of a projection and its input: oneDNN's products, and between them as few passes over the rows as the
// order of the work allows.
#include "core/row_chunks.h"
#include "ops/dropout.h"
#include "ops/gemm.h"
#include "ops/project.h"
#include "ops/rowwise.h"

#include <ATen/ATen.h>

#include <optional>

namespace rankfold::ops::on_cpu {
namespace {

// A low-rank update in one pass over its projection.
struct UpdatePass {
  LowRank* update;
  at::Tensor a, b;                  // [r, K], [n, r] in the dtype of x
  at::Tensor s;                     // [T, r]
  at::Tensor packed;                // the factor that the next loop reads
  cpu::DropoutCounters counters{};  // no rows: nothing is dropped

  int64_t rank() const { return a.size(0); }
  int64_t outputs() const { return b.size(0); }
  // The counters of the rows from `begin` on; null where nothing is dropped.
  const cpu::DropoutCounters* dropout(int64_t begin, cpu::DropoutCounters& shifted) const {
    if (!counters.row) return nullptr;
    shifted = counters;
    shifted.row += begin, shifted.position += begin;
    return &shifted;
  }
};

std::vector<UpdatePass> passes_of(Projection& projection, const Pass& pass, at::ScalarType dtype) {
  std::vector<UpdatePass> updates;
  for (LowRank& l : projection.updates) {
    UpdatePass u{&l, l.a_copy.of(l.a, dtype), l.b_copy.of(l.b, dtype), {}, {}};
    if (pass.dropout > 0) u.counters = dropout_counters(pass, l.index, projection.in_features());
    updates.push_back(std::move(u));
  }
  return updates;
}

template <class T>
at::Tensor pack(const at::Tensor& factor, bool transposed) {
  const auto& loops = cpu::loops().of<T>();
  const int64_t m = factor.size(0), k = factor.size(1);
  at::Tensor packed = at::empty({loops.low_rank_packed(m, k, transposed)}, at::kByte);
  loops.low_rank_pack(const_data<T>(factor), m, k, transposed, packed.data_ptr());
  return packed;
}

template <class T>
ThreadScratch scratch_for(const std::vector<UpdatePass>& updates) {
  int64_t bytes = 0;
  for (const UpdatePass& u : updates) bytes = std::max(bytes, cpu::loops().of<T>().low_rank_scratch(u.rank()));
  return ThreadScratch(bytes);
}

cpu::Gate gate_of(const Input& input) {
  const GateFactors factors = factors_of(input.activation);
  return {factors.linear, factors.cubic};
}

// The projection's input x, computed from `in` (contiguous).
struct ComputedInput {
  at::Tensor in, x, rstd, gain;

  explicit ComputedInput(const Input& input) : in(input.in.contiguous()), x(in) {
    const int64_t m = in.size(0);
    if (input.source == Source::norm) {
      x = empty_rows(m, in.size(1), in.options());
      rstd = at::empty({m}, in.options().dtype(sum_dtype(in.scalar_type())));
      gain = input.norm->current_weight();
    } else if (input.source == Source::glu) {
      x = empty_rows(m, in.size(1) / 2, in.options());
    }
  }

  // Rows [begin, end) of x. Thread safe.
  template <class T>
  void compute_rows(const Input& input, int64_t begin, int64_t end) const {
    using Sum = typename cpu::LoopTable<T>::Sum;
    const auto& loops = cpu::loops().of<T>();
    const int64_t k = x.size(1);
    const T* from = const_data<T>(in) + begin * in.size(1);
    if (input.source == Source::norm)
      loops.rms_norm(from, const_data<T>(gain), input.norm->gain_offset, input.norm->eps, end - begin, k,
                     data<T>(x) + begin * k, data<Sum>(rstd) + begin);
    if (input.source == Source::glu) loops.glu(from, gate_of(input), end - begin, k, data<T>(x) + begin * k);
  }
};

// x W^T + bias. A weight that is decoded is so in blocks of rows.
at::Tensor multiply(const at::Tensor& x, Projection& projection) {
  FrozenWeight& weight = projection.current();
  const at::Tensor& bias = projection.current_bias();
  const int64_t most = DecodedWeight::block_elements(x.size(0));
  if (weight.dense() || weight.rows() * weight.columns() <= most) return gemm_nt(x, weight.whole(), bias);
  const at::Tensor y = empty_rows(x.size(0), weight.rows(), x.options());
  for_row_chunks(weight.rows(), weight.columns(), most, [&](int64_t begin, int64_t count) {
    const at::Tensor rows = weight.block(begin, begin + count, 0, weight.columns());
    y.narrow(1, begin, count).copy_(gemm_nt(x, rows, bias.defined() ? bias.narrow(0, begin, count) : bias));
  });
  return y;
}

// dy W. In blocks of columns: of rows they would have to be added, in the dtype of the result.
at::Tensor multiply_back(const at::Tensor& dy, Projection& projection) {
  FrozenWeight& weight = projection.current();
  const int64_t most = DecodedWeight::block_elements(dy.size(0));
  if (weight.dense() || weight.rows() * weight.columns() <= most) return gemm_nn(dy, weight.whole());
  constexpr int64_t kStep = 64;  // columns: a block of codes, a line of the cache
  const at::Tensor dx = empty_rows(dy.size(0), weight.columns(), dy.options());
  for_row_chunks((weight.columns() + kStep - 1) / kStep, weight.rows() * kStep, most,
                 [&](int64_t begin, int64_t count) {
                   const int64_t first = begin * kStep, last = std::min((begin + count) * kStep, weight.columns());
                   dx.narrow(1, first, last - first).copy_(gemm_nn(dy, weight.block(0, weight.rows(), first, last)));
                 });
  return dx;
}

}  // namespace

Projected project(const Input& input, Projection& projection, const Pass& pass, const at::Tensor& residual) {
  const ComputedInput computed(input);
  const at::Tensor& x = computed.x;
  const int64_t m = x.size(0), k = x.size(1), n = projection.out_features();
  std::vector<UpdatePass> updates = passes_of(projection, pass, x.scalar_type());
  Projected result;
  result.rstd = computed.rstd;
  with_dtype(x.scalar_type(), [&]<class T>(T) {
    const auto& loops = cpu::loops().of<T>();
    const ThreadScratch scratch = scratch_for<T>(updates);
    for (UpdatePass& u : updates) {
      u.packed = pack<T>(u.a, /*transposed=*/true);
      u.s = at::empty({m, u.rank()}, x.options());
      result.s.push_back(u.s);
    }
    if (input.source != Source::plain || !updates.empty())
      for_row_blocks(m, k, [&](int64_t begin, int64_t end) {
        computed.compute_rows<T>(input, begin, end);
        for (const UpdatePass& u : updates) {
          cpu::DropoutCounters counters;
          loops.low_rank_down(const_data<T>(x) + begin * k, k, u.dropout(begin, counters), end - begin, k,
                              u.packed.const_data_ptr(), u.rank(), u.update->scale, data<T>(u.s) + begin * u.rank(),
                              scratch.mine());
        }
      });
    result.y = multiply(x, projection);
    for (UpdatePass& u : updates) u.packed = pack<T>(u.b, /*transposed=*/true);
    const at::Tensor added = residual.defined() ? residual.contiguous() : residual;
    if (added.defined() || !updates.empty())
      for_row_blocks(m, n, [&](int64_t begin, int64_t end) {
        T* y = data<T>(result.y) + begin * n;
        for (const UpdatePass& u : updates)
          loops.low_rank_up(const_data<T>(u.s) + begin * u.rank(), u.packed.const_data_ptr(), u.rank(), nullptr,
                            end - begin, u.outputs(), y + u.update->begin, n, scratch.mine());
        if (added.defined()) loops.add(const_data<T>(added) + begin * n, (end - begin) * n, y);
      });
  });
  return result;
}

ProjectedGradient project_backward(const at::Tensor& dy_in, const Input& input, Projection& projection,
                                   const Pass& pass, const std::vector<at::Tensor>& s, const at::Tensor& d_residual_in,
                                   bool needs_d_in) {
  const at::Tensor dy = dy_in.contiguous();
  const int64_t m = dy.size(0), n = dy.size(1), k = projection.in_features();
  const bool has_gain = input.norm && input.norm->master.defined(), needs_dx = needs_d_in || has_gain;
  ProjectedGradient gradient;
  std::optional<ComputedInput> computed;
  if (projection.trains()) computed.emplace(input);
  std::vector<UpdatePass> updates = passes_of(projection, pass, dy.scalar_type());
  at::Tensor dx;
  with_dtype(dy.scalar_type(), [&]<class T>(T) {
    using Sum = typename cpu::LoopTable<T>::Sum;
    const auto& loops = cpu::loops().of<T>();
    const ThreadScratch scratch = scratch_for<T>(updates);

    // x once more, and dS = scale dY B.
    for (UpdatePass& u : updates) {
      u.packed = pack<T>(u.b, /*transposed=*/false);
      u.s = at::empty({m, u.rank()}, dy.options());
    }
    if (projection.trains())
      for_row_blocks(m, n, [&](int64_t begin, int64_t end) {
        computed->compute_rows<T>(input, begin, end);
        for (const UpdatePass& u : updates)
          loops.low_rank_down(const_data<T>(dy) + begin * n + u.update->begin, n, nullptr, end - begin, u.outputs(),
                              u.packed.const_data_ptr(), u.rank(), u.update->scale, data<T>(u.s) + begin * u.rank(),
                              scratch.mine());
      });

    // dA = dS^T drop(x), dB = dY^T S: by columns, which no two threads share.
    struct Columns {
      const UpdatePass* update;
      const at::Tensor *s, *gradient;
      bool of_b;
      int64_t begin;
    };
    std::vector<Columns> columns;
    std::vector<at::Tensor> leaves;
    leaves.reserve(2 * projection.modules.size() + 2 * updates.size());  // columns point into it
    for (const Module& module : projection.modules)
      if (module.master.defined())
        leaves.push_back(gemm_tn(dy.narrow(1, module.begin, module.end - module.begin), computed->x));
    for (const Module& module : projection.modules)
      if (module.bias_master.defined())
        leaves.push_back(
            dy.narrow(1, module.begin, module.end - module.begin).sum(0, false, sum_dtype(dy.scalar_type())));
    for (size_t next = 0; next < updates.size(); ++next) {
      const UpdatePass& u = updates[next];
      const auto options = dy.options().dtype(sum_dtype(dy.scalar_type()));
      leaves.push_back(at::empty({u.rank(), k}, options));
      for (int64_t j = 0; j < k; j += cpu::kLowRankColumns) columns.push_back({&u, &u.s, &leaves.back(), false, j});
      leaves.push_back(at::empty({u.outputs(), u.rank()}, options));
      for (int64_t j = 0; j < u.outputs(); j += cpu::kLowRankColumns)
        columns.push_back({&u, &s[next], &leaves.back(), true, j});
    }
    at::parallel_for(0, static_cast<int64_t>(columns.size()), 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const Columns& c = columns[static_cast<size_t>(i)];
        const UpdatePass& u = *c.update;
        const int64_t width = std::min(cpu::kLowRankColumns, (c.of_b ? u.outputs() : k) - c.begin);
        cpu::DropoutCounters counters;
        if (c.of_b) {
          loops.low_rank_gradient(const_data<T>(*c.s), u.rank(), const_data<T>(dy) + u.update->begin, n, nullptr, m,
                                  c.begin, width, data<Sum>(*c.gradient), 1, u.rank(), scratch.mine());
        } else {
          loops.low_rank_gradient(const_data<T>(*c.s), u.rank(), const_data<T>(computed->x), k, u.dropout(0, counters),
                                  m, c.begin, width, data<Sum>(*c.gradient), k, 1, scratch.mine());
        }
      }
    });
    gradient.leaves = std::move(leaves);
    if (!needs_dx) return;

    // dX = dY W + mask (dS A), and through what computed x.
    computed.reset();
    dx = multiply_back(dy, projection);
    for (UpdatePass& u : updates) u.packed = pack<T>(u.a, /*transposed=*/false);
    const at::Tensor d_residual = d_residual_in.defined() ? d_residual_in.contiguous() : d_residual_in;
    if (input.source == Source::plain && updates.empty()) return;
    const at::Tensor in = input.source == Source::plain ? dx : input.in.contiguous();
    if (input.source != Source::plain) gradient.d_in = empty_rows(m, in.size(1), dy.options());
    const at::Tensor gain = input.norm ? input.norm->current_weight() : at::Tensor();
    // The gain's gradient: partial sums over blocks of rows, added in order.
    const at::Tensor partial = has_gain ? at::zeros({(m + kRowBlock - 1) / kRowBlock, k}, input.rstd.options()) : gain;
    for_row_blocks(m, k, [&](int64_t begin, int64_t end) {
      T* rows = data<T>(dx) + begin * k;
      for (const UpdatePass& u : updates) {
        cpu::DropoutCounters counters;
        loops.low_rank_up(const_data<T>(u.s) + begin * u.rank(), u.packed.const_data_ptr(), u.rank(),
                          u.dropout(begin, counters), end - begin, k, rows, k, scratch.mine());
      }
      if (input.source == Source::plain) return;
      const T* from = const_data<T>(in) + begin * in.size(1);
      T* d_in = data<T>(gradient.d_in) + begin * in.size(1);
      if (input.source == Source::norm) {
        loops.rms_norm_backward(rows, from, const_data<T>(gain), input.norm->gain_offset,
                                const_data<Sum>(input.rstd) + begin,
                                d_residual.defined() ? const_data<T>(d_residual) + begin * k : nullptr, end - begin, k,
                                d_in, has_gain ? data<Sum>(partial) + begin / kRowBlock * k : nullptr);
      } else {
        loops.glu_backward(rows, from, gate_of(input), end - begin, k, d_in);
      }
    });
    if (has_gain) gradient.d_gain = partial.sum(0);
  });
  if (input.source == Source::plain) gradient.d_in = dx;
  if (!needs_d_in) gradient.d_in = at::Tensor();
  return gradient;
}

}  // namespace rankfold::ops::on_cpu
