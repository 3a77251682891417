// cross_entropy.h.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cases.h"

namespace rankfold::kernels::testing {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Problem {
  Dtype dtype = Dtype::f32;
  int64_t m = 0, v = 0;
  bool capped = false, gradient = true;
  double deviation = 2;           // of the logits
  int64_t offset = 0, extra = 0;  // elements: of the base beyond 16 bytes, of the pitch beyond the width
};

template <class Real>
struct Result {
  Numbers loss, gradient;
};

constexpr float kCap = 5;

template <class Real>
Result<Real> reference(const Problem& p, const Numbers& logits, const std::vector<int64_t>& label) {
  Result<Real> result;
  for (int64_t m = 0; m < p.m; ++m) {
    std::vector<Real> z;
    for (int64_t v = 0; v < p.v; ++v) {
      const Real x = Real(logits[static_cast<size_t>(m * p.v + v)]);
      z.push_back(p.capped ? Real(kCap) * std::tanh(x / Real(kCap)) : x);
    }
    const Real largest = *std::max_element(z.begin(), z.end());
    Real sum = 0;
    for (const Real x : z) sum += std::exp(x - largest);
    const Real log_sum = largest + std::log(sum);
    const int64_t target = label[static_cast<size_t>(m)];
    result.loss.push_back(target < 0 ? 0 : log_sum - z[static_cast<size_t>(target)]);
    for (int64_t v = 0; v < p.v; ++v) {
      const Real d = std::exp(z[static_cast<size_t>(v)] - log_sum) - Real(v == target ? 1 : 0);
      const Real bent = p.capped ? z[static_cast<size_t>(v)] / Real(kCap) : Real(0);
      result.gradient.push_back(target < 0 ? 0 : stored(d * (1 - bent * bent), p.dtype));
    }
  }
  return result;
}

CrossEntropy entropy_of(const Problem& p, const Matrix& logits, const int64_t* label, const Matrix& loss) {
  CrossEntropy e;
  e.dtype = p.dtype;
  e.m = p.m, e.v = p.v;
  e.logits = logits.data(), e.ld = logits.ld();
  e.label_M = label;
  e.loss_M = loss.floats();
  e.gradient = p.gradient;
  return e;
}

void run(Context& c, const Problem& p) {
  Numbers numbers = c.normal(p.m * p.v, p.deviation);
  std::vector<int64_t> label(static_cast<size_t>(p.m));
  for (int64_t& x : label) x = c.integer(0, p.v);
  if (p.m > 2) {
    label[1] = -100;
    for (int64_t v = 0; v < p.v; v += 2)  // masked out, but for the label
      if (v != label[2]) numbers[static_cast<size_t>(2 * p.v + v)] = -kInfinity;
    if (p.v > 100)  // all that one thread sees
      for (int64_t v = 16; v < 32; ++v)
        if (v != label[2]) numbers[static_cast<size_t>(2 * p.v + v)] = -kInfinity;
  }
  const Shape shape{p.m, p.v, p.v + p.extra, 0, p.offset};
  const Matrix logits = p.gradient ? c.in_out(p.dtype, shape, numbers) : c.input(p.dtype, shape, numbers);
  const Numbers given = logits.numbers();
  const Matrix loss = c.output(Dtype::f32, {1, p.m});
  CrossEntropy e = entropy_of(p, logits, c.array(label), loss);
  if (p.capped) e.soft_cap = kCap;
  c.run([&] { c.table().cross_entropy(e, c.stream()); });
  if (!c.checks()) return;

  const auto exact = reference<double>(p, given, label);
  const auto plain = reference<float>(p, given, label);
  c.expect_close("loss", loss, exact.loss, plain.loss, {});
  if (p.gradient) c.expect_close("gradient", logits, exact.gradient, plain.gradient, {});
}

// Logits that are not numbers: where, and what must come of them. Eight neighbours are what one thread reads at once.
void run_not_a_number(Context& c, Dtype dtype, int64_t v, int64_t begin, int64_t end, double value) {
  const Problem p{dtype, 3, v};
  Numbers numbers = c.normal(p.m * v);
  for (int64_t i = begin; i < end; ++i) numbers[static_cast<size_t>(v + i)] = value;
  const Matrix logits = c.in_out(dtype, {p.m, v}, numbers);
  const Numbers given = logits.numbers();
  const Matrix loss = c.output(Dtype::f32, {1, p.m});
  const std::vector<int64_t> label(3, v - 1);
  const CrossEntropy e = entropy_of(p, logits, c.array(label), loss);
  c.run([&] { c.table().cross_entropy(e, c.stream()); });
  c.expect(std::isnan(loss(0, 1)),
           "a row with a logit that is not a number has the loss " + std::to_string(loss(0, 1)));
  bool all_nan = true, others_finite = std::isfinite(loss(0, 0)) && std::isfinite(loss(0, 2));
  for (int64_t i = 0; i < v; ++i) {
    all_nan = all_nan && std::isnan(logits(1, i));
    others_finite = others_finite && std::isfinite(logits(0, i)) && std::isfinite(logits(2, i));
  }
  c.expect(all_nan, "the gradient of that row has numbers");
  c.expect(others_finite, "the rows beside it have a loss or gradient that is no number");
}

std::string flags(int64_t offset, int64_t extra) {
  return std::string(offset > 0 ? "_odd_base" : "") + (extra > 0 ? "_pitched" : "");
}

}  // namespace

std::vector<Case> cross_entropy_cases() {
  std::vector<Case> cases;
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16}) {
    const std::string type = name_of(dtype);
    const double large = dtype == Dtype::f16 ? 5e3 : 1e4;  // three deviations must stay below 65504
    for (const Problem& p : {Problem{dtype, 3, 1},
                             {dtype, 5, 7, true, true, 2, 1, 3},
                             {dtype, 4, 8, false, true, large},
                             {dtype, 3, 100, true, true, large},
                             {dtype, 4, 513, true, true, 2, 0, 2},
                             {dtype, 3, 520, false, false, 2, 0, 8},
                             {dtype, 3, 520, true, true, 2, 1},
                             {dtype, 3, 5000, true},
                             {dtype, 0, 8}}) {
      cases.push_back({"cross_entropy",
                       "cross_entropy_" + type + "_m" + std::to_string(p.m) + "_v" + std::to_string(p.v) +
                           (p.capped ? "_capped" : "") + (p.gradient ? "" : "_loss_alone") +
                           (p.deviation > 100 ? "_large" : "") + flags(p.offset, p.extra),
                       [p](Context& c) { run(c, p); }});
    }
    struct Place {
      int64_t v, begin, end;
    };
    for (const Place at : {Place{1, 0, 1}, {7, 3, 4}, {16, 0, 8}, {520, 512, 520}, {5000, 8, 16}, {16, 0, 16}}) {
      const std::string place =
          "_v" + std::to_string(at.v) + "_" + std::to_string(at.begin) + "_" + std::to_string(at.end);
      cases.push_back({"cross_entropy", "cross_entropy_" + type + "_nan" + place,
                       [=](Context& c) { run_not_a_number(c, dtype, at.v, at.begin, at.end, std::nan("")); }});
    }
    cases.push_back({"cross_entropy", "cross_entropy_" + type + "_infinite",
                     [=](Context& c) { run_not_a_number(c, dtype, 100, 8, 9, kInfinity); }});
  }
  return cases;
}

}  // namespace rankfold::kernels::testing
