// input_grad.h.
#include <algorithm>
#include <cmath>

#include "kernels/cases.h"
#include "kernels/low_rank.h"

namespace rankfold::kernels::testing {
namespace {

struct Problem {
  Source source = Source::plain;
  Dtype dtype = Dtype::f32;
  int64_t m = 0, k = 0;
  std::vector<int64_t> ranks;
  double drop_prob = 0;
  std::string special;  // "_" and what is unusual of it

  int64_t offset = 0, extra = 0;  // elements: of bases beyond 16 bytes, of pitches beyond the width
  bool dx = true, low_rank_part = true, residual = true, da = true, dgain = true;
  int64_t cached_bytes = InputGrad().cached_bytes;
  double deviation = 1;  // of what x is made of
  float gain_offset = 0;
  bool gelu = false;
};

struct Inputs {
  Numbers in, gain, rstd, dx, ds, a, residual;  // a: [R, K]
};

template <class Real>
struct Result {
  Numbers out, da, dgain;  // out of plain: dx
};

template <class Real>
Result<Real> reference(const Problem& p, const LowRank& low_rank, const Inputs& in) {
  const int64_t columns = low_rank.columns(), width = p.source == Source::glu ? 2 * p.k : p.k;
  Result<Real> result;
  if (p.source == Source::norm) result.dgain.resize(static_cast<size_t>(p.k));
  std::vector<Real> dgain(static_cast<size_t>(p.k)), da(static_cast<size_t>(columns * p.k));
  for (int64_t m = 0; m < p.m; ++m) {
    const auto input = [&](int64_t k) { return Real(in.in[static_cast<size_t>(m * width + k)]); };
    const auto gain = [&](int64_t k) { return Real(in.gain[static_cast<size_t>(k)]) + Real(p.gain_offset); };
    const Real rstd = p.source == Source::norm ? Real(in.rstd[static_cast<size_t>(m)]) : Real(0);
    std::vector<Real> dx(static_cast<size_t>(p.k)), x(static_cast<size_t>(p.k));
    for (int64_t k = 0; k < p.k; ++k) {
      Real& x_k = x[static_cast<size_t>(k)] = input(k);
      if (p.source == Source::norm) x_k = x_k * rstd * gain(k);
      if (p.source == Source::glu) x_k = activation(x_k, p.gelu) * input(p.k + k);
      x_k = stored(x_k, p.dtype);
      if (p.dx) dx[static_cast<size_t>(k)] = Real(in.dx[static_cast<size_t>(m * p.k + k)]);
    }
    low_rank.each_column([&](int u, int64_t r) {
      const Real ds = Real(in.ds[static_cast<size_t>(m * columns + r)]);
      for (int64_t k = 0; k < p.k; ++k) {
        if (!low_rank.is_kept(u, m, k)) continue;
        const auto at = static_cast<size_t>(r * p.k + k);
        da[at] += ds * x[static_cast<size_t>(k)];
        if (p.low_rank_part) dx[static_cast<size_t>(k)] += ds * Real(in.a[at]);
      }
    });
    Real mean = 0;  // of dx gain h
    for (int64_t k = 0; k < p.k && p.source == Source::norm; ++k)
      mean += dx[static_cast<size_t>(k)] * gain(k) * input(k) / Real(p.k);
    std::vector<Real> dup;
    for (int64_t k = 0; k < p.k; ++k) {
      const Real d = dx[static_cast<size_t>(k)];
      Real out = d;
      if (p.source == Source::norm) {
        dgain[static_cast<size_t>(k)] += d * input(k) * rstd;
        out = rstd * (d * gain(k) - input(k) * rstd * rstd * mean);
        if (p.residual) out += Real(in.residual[static_cast<size_t>(m * p.k + k)]);
      }
      if (p.source == Source::glu) {
        out = d * input(p.k + k) * activation_slope(input(k), p.gelu);
        dup.push_back(d * activation(input(k), p.gelu));
      }
      result.out.push_back(stored(out, p.dtype));
    }
    for (const Real x_up : dup) result.out.push_back(stored(x_up, p.dtype));
  }
  result.da.assign(da.begin(), da.end());
  if (p.source == Source::norm) result.dgain.assign(dgain.begin(), dgain.end());
  return result;
}

void run(Context& c, const Problem& p) {
  const LowRank low_rank = make_low_rank(c, p.ranks, p.drop_prob, p.m, p.k);
  const int64_t columns = low_rank.columns(), width = p.source == Source::glu ? 2 * p.k : p.k;
  const bool plain_source = p.source == Source::plain, norm = p.source == Source::norm;
  const auto shape = [&](int64_t cols) { return Shape{p.m, cols, cols + p.extra, 0, p.offset}; };
  const Matrix in = c.input(p.dtype, shape(width), c.normal(p.m * width, p.deviation));
  const Matrix gain = c.input(p.dtype, {1, p.k, 0, 0, p.offset}, c.normal(p.k));
  Numbers rstd_numbers = c.normal(p.m, 0.1);
  for (double& x : rstd_numbers) x += 1;
  const Matrix rstd = c.input(Dtype::f32, {1, p.m}, rstd_numbers);
  Matrix dx;
  if (p.dx) {
    const Numbers numbers = c.normal(p.m * p.k);
    dx = plain_source ? c.in_out(p.dtype, shape(p.k), numbers) : c.input(p.dtype, shape(p.k), numbers);
  }
  const Matrix ds = c.input(p.dtype, {p.m, columns, columns + 8}, low_rank.padded(c, p.m, 1));
  const double deviation = 1 / std::sqrt(static_cast<double>(std::max<int64_t>(columns, 1)));
  const Matrix at = c.input(p.dtype, {p.k, columns, columns + 8}, low_rank.padded(c, p.k, deviation));
  const Matrix residual = c.input(p.dtype, shape(p.k), c.normal(p.m * p.k));
  const Matrix out = c.output(p.dtype, plain_source || !p.dx ? Shape{} : shape(width));
  const Matrix da = c.output(Dtype::f32, {p.da ? columns : 0, p.k});
  const Matrix dgain = c.output(Dtype::f32, {norm && p.dgain ? 1 : 0, p.k});
  const Inputs inputs{in.numbers(),      gain.numbers(),
                      rstd.numbers(),    p.dx ? dx.numbers() : Numbers(),
                      ds.numbers(),      transposed(at.numbers(), p.k, columns),
                      residual.numbers()};

  InputGrad g;
  g.source = p.source;
  g.dtype = p.dtype;
  g.m = p.m, g.k = p.k;
  g.in = in.data(), g.ld_in = in.ld();
  if (norm) g.gain_K = gain.data(), g.rstd_M = rstd.floats();
  if (p.dx) g.dx = dx.data(), g.ld_dx = dx.ld();
  if (columns > 0) g.ds_MR = ds.data(), g.ld_ds = ds.ld();
  if (p.low_rank_part && columns > 0) g.at_KR = at.data(), g.ld_at = at.ld();
  if (norm && p.residual) g.residual = residual.data(), g.ld_residual = residual.ld();
  if (p.dx && !plain_source) g.out = out.data(), g.ld_out = out.ld();
  if (p.da && columns > 0) g.da_RK = da.floats();
  if (norm && p.dgain) g.dgain_K = dgain.floats();
  g.gain_offset = p.gain_offset;
  if (p.gelu) g.gate = kGelu;
  g.updates = low_rank.updates;
  g.cached_bytes = p.cached_bytes;
  g.workspace = static_cast<float*>(c.memory(static_cast<size_t>(c.table().input_grad_workspace(g))));
  c.run([&] { c.table().input_grad(g, c.stream()); });
  if (!c.checks()) return;

  const auto exact = reference<double>(p, low_rank, inputs);
  const auto plain = reference<float>(p, low_rank, inputs);
  const Dtype coarse = plain_source ? Dtype::f32 : p.dtype;
  if (p.dx && p.source == Source::glu) {
    for (const int64_t half : {0, 1}) {
      const auto part = [&](const Numbers& x) { return columns_of(x, 2 * p.k, half * p.k, (half + 1) * p.k); };
      c.expect_close(half == 0 ? "dgate" : "dup", out.columns(half * p.k, p.k), part(exact.out), part(plain.out), {});
    }
  } else if (p.dx) {
    c.expect_close(norm ? "dh" : "dx", plain_source ? dx : out, exact.out, plain.out, {norm ? p.k : 1});
  }
  if (p.da) c.expect_close("dA", da, exact.da, plain.da, {p.m, coarse});
  if (norm && p.dgain) c.expect_close("dgain", dgain, exact.dgain, plain.dgain, {p.m});
}

std::vector<Problem> problems() {
  std::vector<Problem> all;
  for (const Source source : {Source::plain, Source::norm, Source::glu}) {
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16}) {
      const auto add = [&](int64_t m, int64_t k, std::vector<int64_t> ranks, double drop_prob,
                           const std::string& special = "", const std::function<void(Problem&)>& change = {}) {
        Problem p{source, dtype, m, k, std::move(ranks), drop_prob, special};
        if (change) change(p);
        all.push_back(p);
      };
      const auto odd = [](Problem& p) { p.offset = 1, p.extra = 3; };
      const auto pitched = [](Problem& p) { p.extra = 8; };
      for (const int64_t rank : {1, 4, 8, 16, 48, 64, 96})  // every rank with and without dropout
        for (const double drop_prob : {0.0, 0.05}) add(17, 72, {rank}, drop_prob);
      add(1, 8, {16}, 0);
      add(15, 24, {1}, 0.05);
      add(16, 32, {4}, 0.5, "_pitched", pitched);
      add(17, 37, {8}, 0.05, "_odd", odd);
      add(33, 40, {8, 8, 8}, 0.05);
      add(70, 129, {48}, 0.5);
      add(33, 264, {16, 16, 16}, 0.05, "_odd_base", [](Problem& p) { p.offset = 1; });
      add(17, 300, {64}, 0);
      add(70, 264, {5, 12}, 0.05);
      add(33, 136, {32, 32, 32}, 0.05);
      add(17, 129, {96}, 0.5, "_odd", odd);
      add(33, 40, {64}, 0.05, "_pitched", pitched);
      add(17, 40, {}, 0);
      add(17, 37, {}, 0, "_odd", odd);
      add(0, 40, {8}, 0.05);
      add(70, 40, {16}, 0.05, "_da_alone", [](Problem& p) { p.dx = false, p.dgain = false; });
      add(17, 40, {96}, 0.05, "_dx_complete", [](Problem& p) { p.low_rank_part = false; });
      add(17, 40, {16, 16}, 0.05, "_without_da", [](Problem& p) { p.da = false; });
      if (source == Source::glu) {
        add(17, 40, {16}, 0.05, "_large", [](Problem& p) { p.deviation = 30; });  // e^-gate overflows
        for (const double deviation : {1.0, 30.0})
          add(17, 72, {16}, 0.05, deviation > 1 ? "_gelu_large" : "_gelu",
              [=](Problem& p) { p.gelu = true, p.deviation = deviation; });
        add(17, 37, {}, 0, "_gelu_odd", [&](Problem& p) { odd(p), p.gelu = true; });
      }
      if (source == Source::norm)
        for (const std::vector<int64_t>& few : {std::vector<int64_t>{}, {16}})
          add(17, 72, few, 0.05, "_offset", [](Problem& p) { p.gain_offset = 1; });
      if (source != Source::norm) continue;
      add(17, 40, {16}, 0.05, "_without_residual", [](Problem& p) { p.residual = false; });
      add(17, 129, {16}, 0.05, "_without_dgain", [](Problem& p) { p.dgain = false; });
      if (dtype == Dtype::f16) continue;
      add(9, 2056, {16}, 0.05);  // more features than one block finishes of a row
      add(9, 2100, {8}, 0.05);
      add(300, 37, {16}, 0.05, "_two_slices", [](Problem& p) { p.cached_bytes = 0; });
      add(530, 24, {96}, 0, "_three_slices", [](Problem& p) { p.cached_bytes = 0; });
    }
  }
  return all;
}

}  // namespace

std::vector<Case> input_grad_cases() {
  std::vector<Case> cases;
  for (const Problem& p : problems())
    cases.push_back({"input_grad",
                     name_of_case("input_grad", p.source, p.dtype, p.m, p.k, p.ranks, p.drop_prob) + p.special,
                     [p](Context& c) { run(c, p); }});
  return cases;
}

}  // namespace rankfold::kernels::testing
