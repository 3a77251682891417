// output_grad.h.
#include <cmath>

#include "kernels/cases.h"
#include "kernels/low_rank.h"

namespace rankfold::kernels::testing {
namespace {

struct Problem {
  Dtype dtype = Dtype::f32;
  int64_t m = 0, n = 0;
  std::vector<int64_t> ranks;
  int64_t offset = 0, extra = 0;  // elements: of dY's base beyond 16 bytes, of pitches beyond the width
};

template <class Real>
struct Result {
  Numbers ds, db;
};

template <class Real>
Result<Real> reference(const Problem& p, const LowRank& low_rank, const Numbers& dy, const Numbers& bt,
                       const Numbers& s) {
  const int64_t columns = low_rank.columns();
  Result<Real> result{Numbers(static_cast<size_t>(p.m * columns)), Numbers(static_cast<size_t>(p.n * columns))};
  low_rank.each_column([&](int u, int64_t r) {
    for (int64_t m = 0; m < p.m; ++m) {
      Real sum = 0;
      for (int64_t n = 0; n < p.n; ++n)
        sum += Real(dy[static_cast<size_t>(m * p.n + n)]) * Real(bt[static_cast<size_t>(r * p.n + n)]);
      result.ds[static_cast<size_t>(m * columns + r)] = stored(Real(low_rank.updates.update[u].scale) * sum, p.dtype);
    }
    for (int64_t n = 0; n < p.n; ++n) {
      Real sum = 0;
      for (int64_t m = 0; m < p.m; ++m)
        sum += Real(dy[static_cast<size_t>(m * p.n + n)]) * Real(s[static_cast<size_t>(m * columns + r)]);
      result.db[static_cast<size_t>(n * columns + r)] = sum;
    }
  });
  return result;
}

void run(Context& c, const Problem& p) {
  const LowRank low_rank = make_low_rank(c, p.ranks, 0, p.m, 0);
  const int64_t columns = low_rank.columns(), padded = round_up(p.n, 8);
  const Matrix dy = c.input(p.dtype, {p.m, p.n, p.n + p.extra, 0, p.offset}, c.normal(p.m * p.n));
  const Numbers bt_numbers = transposed(low_rank.padded(c, p.n, 1 / std::sqrt(static_cast<double>(p.n))), p.n, columns);
  const Matrix bt = c.input(p.dtype, {columns, p.n, padded + 8, padded - p.n}, bt_numbers);
  const Matrix kept = c.input(p.dtype, {p.m, columns, columns + 8}, low_rank.padded(c, p.m, 1));
  const Matrix ds = c.output(p.dtype, {p.m, columns, columns + p.extra, 0, p.offset});
  const Matrix db = c.output(Dtype::f32, {p.n, columns, columns + p.extra});

  OutputGrad g;
  g.dtype = p.dtype;
  g.m = p.m, g.n = p.n;
  g.dy = dy.data(), g.ld_dy = dy.ld();
  g.bt_RN = bt.data(), g.ld_bt = bt.ld();
  g.kept_MR = kept.data(), g.ld_kept = kept.ld();
  g.ds_MR = ds.data(), g.ld_ds = ds.ld();
  g.db_NR = db.floats(), g.ld_db = db.ld();
  g.updates = low_rank.updates;
  g.workspace = static_cast<float*>(c.memory(static_cast<size_t>(c.table().output_grad_workspace(g))));
  c.run([&] { c.table().output_grad(g, c.stream()); });
  if (!c.checks()) return;

  const auto exact = reference<double>(p, low_rank, dy.numbers(), bt.numbers(), kept.numbers());
  const auto plain = reference<float>(p, low_rank, dy.numbers(), bt.numbers(), kept.numbers());
  for (int u = 0; u < low_rank.updates.count; ++u) {  // scales differ
    const Update& update = low_rank.updates.update[u];
    const auto part = [&](const Numbers& x) { return columns_of(x, columns, update.begin, update.end); };
    c.expect_close("dS of update " + std::to_string(u), ds.columns(update.begin, update.end - update.begin),
                   part(exact.ds), part(plain.ds), {p.n});
  }
  c.expect_close("dB", db, exact.db, plain.db, {p.m});
}

std::vector<Problem> problems() {
  std::vector<Problem> all;
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16}) {
    const auto add = [&](int64_t m, int64_t n, std::vector<int64_t> ranks, int64_t offset = 0, int64_t extra = 0) {
      all.push_back({dtype, m, n, std::move(ranks), offset, extra});
    };
    add(1, 8, {16});
    add(15, 40, {1});
    add(16, 40, {4}, 0, 8);
    add(17, 257, {8});
    add(33, 520, {16}, 0, 8);
    add(70, 1030, {8, 8, 8}, 1, 3);
    add(130, 520, {16, 16, 16});
    add(130, 257, {48}, 0, 3);
    add(70, 520, {64}, 1);
    add(64, 264, {5, 12});
    add(70, 520, {32, 32, 32});
    add(33, 257, {96}, 1, 3);
    add(210, 40, {16});  // more rows than one slab has, of which the last is short
    add(0, 40, {8});
    add(17, 40, {});
  }
  return all;
}

}  // namespace

std::vector<Case> output_grad_cases() {
  std::vector<Case> cases;
  for (const Problem& p : problems()) {
    cases.push_back({"output_grad",
                     std::string("output_grad_") + name_of(p.dtype) + "_m" + std::to_string(p.m) + "_n" +
                         std::to_string(p.n) + "_" + name_of_ranks(p.ranks) + (p.offset > 0 ? "_odd_base" : "") +
                         (p.extra > 0 ? "_pitched" : ""),
                     [p](Context& c) { run(c, p); }});
  }
  return cases;
}

}  // namespace rankfold::kernels::testing
