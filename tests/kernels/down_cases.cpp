// down.h.
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
  std::string special;  // "_" and what is unusual of it; also chooses it, see shapes()

  int64_t in_offset = 0, in_extra = 0;  // elements: of the base beyond 16 bytes, of the pitch beyond the width
  bool x = true, s = true, kept = true;
  int64_t shared_limit = 99 * 1024, many_rows = Down().many_rows;
  double deviation = 1;  // of what x is made of
  float gain_offset = 0;
  bool gelu = false;
};

template <class Real>
struct Result {
  Numbers x, rstd, s;
};

// Dense [M, ...] numbers in; the columns of S that are padding stay 0.
template <class Real>
Result<Real> reference(const Problem& p, const LowRank& low_rank, const Numbers& in, const Numbers& gain,
                       const Numbers& a, Real eps) {
  Result<Real> result;
  const int64_t columns = low_rank.columns();
  for (int64_t m = 0; m < p.m; ++m) {
    const double* row = &in[static_cast<size_t>(p.source == Source::glu ? m * 2 * p.k : m * p.k)];
    Real squares = 0;
    for (int64_t k = 0; k < p.k; ++k) squares += Real(row[k]) * Real(row[k]);
    const Real rstd = 1 / std::sqrt(squares / Real(p.k) + eps);
    if (p.source == Source::norm) result.rstd.push_back(rstd);
    for (int64_t k = 0; k < p.k; ++k) {
      Real x = Real(row[k]);
      if (p.source == Source::norm) x = x * rstd * (Real(gain[static_cast<size_t>(k)]) + Real(p.gain_offset));
      if (p.source == Source::glu) x = activation(x, p.gelu) * Real(row[p.k + k]);
      result.x.push_back(stored(x, p.dtype));
    }
  }
  result.s.resize(static_cast<size_t>(p.m * columns));
  for (int64_t m = 0; m < p.m; ++m) {
    low_rank.each_column([&](int u, int64_t r) {
      Real sum = 0;
      for (int64_t k = 0; k < p.k; ++k)
        if (low_rank.is_kept(u, m, k))
          sum += Real(result.x[static_cast<size_t>(m * p.k + k)]) * Real(a[static_cast<size_t>(r * p.k + k)]);
      result.s[static_cast<size_t>(m * columns + r)] = stored(Real(low_rank.updates.update[u].scale) * sum, p.dtype);
    });
  }
  return result;
}

void run(Context& c, const Problem& p) {
  const LowRank low_rank = make_low_rank(c, p.ranks, p.drop_prob, p.m, p.k);
  const int64_t columns = low_rank.columns(), padded = round_up(p.k, 8);
  const int64_t width = p.source == Source::glu ? 2 * p.k : p.k;
  Numbers numbers = c.normal(p.m * width, p.deviation);
  if (p.source == Source::norm) {  // every third row so small that eps counts
    for (size_t i = 0; i < numbers.size(); ++i)
      if (static_cast<int64_t>(i) / width % 3 == 0) numbers[i] *= 0.003;
  }
  const Matrix in = c.input(p.dtype, {p.m, width, width + p.in_extra, 0, p.in_offset}, numbers);
  const Matrix gain = c.input(p.dtype, {1, p.k, 0, 0, p.in_offset}, c.normal(p.k));
  // Zero in the padding between updates as well as after the last feature.
  const Numbers a_numbers = transposed(low_rank.padded(c, p.k, 1 / std::sqrt(static_cast<double>(p.k))), p.k, columns);
  const Matrix a = c.input(p.dtype, {columns, p.k, padded + 8, padded - p.k}, a_numbers);
  const Matrix rstd = c.output(Dtype::f32, {1, p.source == Source::norm ? p.m : 0});
  const int64_t width_x = p.x ? padded : 0, width_s = p.s ? columns : 0;
  const Matrix operand = c.output(p.dtype, {p.m, width_x + width_s, width_x + width_s + 8});
  const Matrix kept = c.output(p.dtype, {p.m, p.kept ? columns : 0, columns + 3});

  Down d;
  d.source = p.source;
  d.dtype = p.dtype;
  d.m = p.m, d.k = p.k;
  d.in = in.data(), d.ld_in = in.ld();
  if (p.source == Source::norm) d.gain_K = gain.data(), d.eps = 1e-5f, d.rstd_M = rstd.floats();
  d.gain_offset = p.gain_offset;
  if (p.gelu) d.gate = kGelu;
  if (p.x) d.x = operand.data(), d.ld_x = operand.ld();
  if (columns > 0) d.a_RK = a.data(), d.ld_a = a.ld();
  if (p.s && columns > 0) d.s_MR = operand.columns(width_x, columns).data(), d.ld_s = operand.ld();
  if (p.kept && columns > 0) d.kept_MR = kept.data(), d.ld_kept = kept.ld();
  d.updates = low_rank.updates;
  d.many_rows = p.many_rows;
  d.shared_limit = std::min(p.shared_limit, c.shared_limit());
  c.run([&] { c.table().down(d, c.stream()); });
  if (!c.checks()) return;

  const auto exact = reference<double>(p, low_rank, in.numbers(), gain.numbers(), a.numbers(), d.eps);
  const auto plain = reference<float>(p, low_rank, in.numbers(), gain.numbers(), a.numbers(), d.eps);
  const Dtype coarse = p.source == Source::plain ? Dtype::f32 : p.dtype;
  if (p.source == Source::norm) {  // relative to each, as they differ much
    Numbers ours = rstd.numbers(), one, plain_ratio = plain.rstd;
    for (size_t i = 0; i < ours.size(); ++i) {
      ours[i] /= exact.rstd[i], plain_ratio[i] /= exact.rstd[i];
      one.push_back(1);
    }
    c.expect_close("rstd", ours, one, plain_ratio, Dtype::f32, {p.k});
  }
  if (p.x) {
    c.expect_close("x", operand.columns(0, p.k), exact.x, plain.x, {});
    const Numbers zero(static_cast<size_t>(p.m * (padded - p.k)));
    c.expect_close("padding of x", operand.columns(p.k, padded - p.k), zero, zero, {});
  }
  for (int u = 0; u < low_rank.updates.count; ++u) {  // scales differ
    const Update& update = low_rank.updates.update[u];
    const int64_t begin = update.begin, count = update.end - update.begin;
    const Numbers s = columns_of(exact.s, columns, begin, begin + count);
    const Numbers plain_s = columns_of(plain.s, columns, begin, begin + count);
    const std::string name = " of update " + std::to_string(u);
    if (p.s) c.expect_close("S" + name, operand.columns(width_x + begin, count), s, plain_s, {p.k, coarse});
    if (p.kept) c.expect_close("kept S" + name, kept.columns(begin, count), s, plain_s, {p.k, coarse});
  }
  if (p.s && p.kept && columns > 0)
    c.expect(operand.columns(width_x, columns).numbers() == kept.numbers(), "S and the kept S differ");
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
      const auto odd = [](Problem& p) { p.in_offset = 1, p.in_extra = 3; };
      for (const int64_t rank : {1, 4, 8, 16, 48, 64, 96})  // every rank with and without dropout
        for (const double drop_prob : {0.0, 0.05}) add(17, 72, {rank}, drop_prob);
      add(1, 8, {16}, 0);
      add(15, 24, {1}, 0.05);
      add(16, 32, {8}, 0.5);
      add(17, 37, {4}, 0.05, "_odd", odd);
      add(33, 40, {8, 8, 8}, 0.05, "_pitched", [](Problem& p) { p.in_extra = 8; });
      add(33, 129, {48}, 0.5);
      add(17, 264, {16, 16, 16}, 0.05, "_odd_base", [](Problem& p) { p.in_offset = 1; });
      add(17, 300, {64}, 0);
      add(16, 264, {5, 12}, 0.05);
      add(17, 264, {32, 32, 32}, 0.05);
      add(17, 129, {96}, 0.5, "_odd", odd);
      add(70, 40, {}, 0);
      add(17, 37, {}, 0, "_odd", odd);
      add(17, 40, {16}, 0.05, "_without_x", [](Problem& p) { p.x = false; });
      add(17, 40, {96}, 0, "_without_x", [](Problem& p) { p.x = false, p.s = false; });
      add(17, 40, {8, 8}, 0.05, "_without_s", [](Problem& p) { p.s = false; });
      add(17, 40, {64}, 0.05, "_without_kept", [](Problem& p) { p.kept = false; });
      add(0, 40, {8}, 0.05);
      // As with many rows, where blocks of 16-bit elements are smaller.
      const auto many = [](Problem& p) { p.many_rows = 0; };
      if (dtype != Dtype::f32)
        for (const std::vector<int64_t>& few : {std::vector<int64_t>{}, {16}, {48}})
          add(17, 264, few, 0.05, "_many", many);
      if (source == Source::glu) {
        add(17, 40, {16}, 0.05, "_large", [](Problem& p) { p.deviation = 30; });  // e^-gate overflows
        for (const double deviation : {1.0, 30.0})
          add(17, 72, {16}, 0.05, deviation > 1 ? "_gelu_large" : "_gelu",
              [=](Problem& p) { p.gelu = true, p.deviation = deviation; });
        add(17, 37, {}, 0, "_gelu_odd", [](Problem& p) { p.gelu = true, p.in_offset = 1, p.in_extra = 3; });
      }
      if (source == Source::norm)
        for (const std::vector<int64_t>& few : {std::vector<int64_t>{}, {16}})
          add(17, 72, few, 0.05, "_offset", [](Problem& p) { p.gain_offset = 1; });
      if (source != Source::norm) continue;
      // 25 tiles of 32 features: two to four for a warp, of which none, some and all stay in shared memory.
      const auto add_shared = [&](const std::vector<int64_t>& ranks, int64_t kilobytes) {
        const std::string special = "_shared" + std::to_string(kilobytes);
        const int64_t limit = kilobytes * 1024;
        add(17, 776, ranks, 0.05, special, [=](Problem& p) { p.shared_limit = limit; });
        if (dtype != Dtype::f32)
          add(17, 776, ranks, 0.05, special + "_many", [=](Problem& p) { p.shared_limit = limit, p.many_rows = 0; });
      };
      for (const int64_t kilobytes : {0, 48, 80, 99, 227}) add_shared({16}, kilobytes);
      for (const int64_t kilobytes : {99, 227}) add_shared({64}, kilobytes);
      add_shared({48}, 99);
      add_shared({}, 48);
    }
  }
  return all;
}

}  // namespace

std::vector<Case> down_cases() {
  std::vector<Case> cases;
  for (const Problem& p : problems())
    cases.push_back({"down", name_of_case("down", p.source, p.dtype, p.m, p.k, p.ranks, p.drop_prob) + p.special,
                     [p](Context& c) { run(c, p); }});
  return cases;
}

}  // namespace rankfold::kernels::testing
