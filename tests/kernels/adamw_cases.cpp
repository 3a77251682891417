// adamw.h.
#include <cmath>

#include "kernels/cases.h"

namespace rankfold::kernels::testing {
namespace {

struct Parameter {
  int64_t begin, rows, cols;
  bool decays, has_copy, has_transposed;
  Matrix copy = {}, transposed = {};  // transposed: [cols, rows]
};

struct State {
  Numbers value, first, second;
};

constexpr float kRate = 3e-3f, kBeta1 = 0.9f, kBeta2 = 0.95f, kEps = 1e-6f, kDecay = 0.1f, kGradientScale = 0.25f;

template <class Real>
void step_reference(State& s, const Numbers& gradient, const std::vector<Parameter>& parameters, int t) {
  for (const Parameter& p : parameters) {
    for (int64_t i = p.begin; i < p.begin + p.rows * p.cols; ++i) {
      const auto at = static_cast<size_t>(i);
      const Real g = Real(gradient[at]) * Real(kGradientScale);
      const Real m = Real(kBeta1) * Real(s.first[at]) + (1 - Real(kBeta1)) * g;
      const Real v = Real(kBeta2) * Real(s.second[at]) + (1 - Real(kBeta2)) * g * g;
      const Real decay = p.decays ? Real(kDecay) : Real(0);
      const Real correction1 = 1 - std::pow(Real(kBeta1), Real(t)), correction2 = 1 - std::pow(Real(kBeta2), Real(t));
      s.value[at] = Real(s.value[at]) * (1 - Real(kRate) * decay) -
                    Real(kRate) / correction1 * m / (std::sqrt(v) / std::sqrt(correction2) + Real(kEps));
      s.first[at] = m;
      s.second[at] = v;
    }
  }
}

std::vector<Parameter> make_parameters(Context& c, Dtype dtype) {
  // Several blocks, one block, an empty one, one element; gaps between them that belong to nobody.
  std::vector<Parameter> parameters = {{3, 70, 61, true, true, true},       {4280, 0, 40, true, true, true},
                                       {4280, 48, 128, false, true, false}, {10430, 16, 16, true, false, true},
                                       {10686, 1, 1, true, true, true},     {10690, 5, 37, false, false, false}};
  for (Parameter& p : parameters) {
    if (p.has_copy) p.copy = c.output(dtype, {p.rows, p.cols, p.cols + 3});
    if (p.has_transposed) p.transposed = c.output(dtype, {p.cols, p.rows, round_up(p.rows, 8) + 8});
  }
  return parameters;
}

AdamW make_adamw(Context& c, Dtype dtype, const std::vector<Parameter>& parameters) {
  std::vector<Segment> segments;
  for (const Parameter& p : parameters) {
    Segment s;
    s.begin = p.begin, s.rows = p.rows, s.cols = p.cols;
    s.copy = p.copy.data(), s.ld = p.copy.ld();
    s.transposed = p.transposed.data(), s.ld_transposed = p.transposed.ld();
    s.decays = p.decays;
    segments.push_back(s);
  }
  AdamW a;
  a.dtype = dtype;
  a.block_count = c.table().lay_out(segments.data(), static_cast<int64_t>(segments.size()));
  a.segments = c.array(segments);
  a.segment_count = static_cast<int64_t>(segments.size());
  return a;
}

void expect_copies(Context& c, const std::vector<Parameter>& parameters, const Matrix& value) {
  for (const Parameter& p : parameters) {
    for (int64_t i = 0; i < p.rows * p.cols; ++i) {
      const int64_t row = i / p.cols, col = i % p.cols;
      const double x = value(0, p.begin + i);
      if ((p.copy && p.copy(row, col) != rounded(x, p.copy.dtype())) ||
          (p.transposed && p.transposed(col, row) != rounded(x, p.transposed.dtype())))
        return c.expect(false,
                        "copy of the parameter at " + std::to_string(p.begin) + ", element " + std::to_string(i));
    }
  }
}

constexpr int64_t kSize = 10880;

void run_steps(Context& c, Dtype dtype) {
  const std::vector<Parameter> parameters = make_parameters(c, dtype);
  AdamW a = make_adamw(c, dtype, parameters);
  const Matrix value = c.in_out(Dtype::f32, {1, kSize}, c.normal(kSize, 0.1));
  const Matrix first = c.in_out(Dtype::f32, {1, kSize}, Numbers(kSize));
  const Matrix second = c.in_out(Dtype::f32, {1, kSize}, Numbers(kSize));
  a.value = value.floats(), a.first_moment = first.floats(), a.second_moment = second.floats();
  a.rate = kRate, a.rest1 = static_cast<float>(1 - double{kBeta1}), a.rest2 = static_cast<float>(1 - double{kBeta2});
  a.beta1 = kBeta1, a.beta2 = kBeta2, a.eps = kEps, a.decay = kDecay, a.gradient_scale = kGradientScale;
  State exact{value.numbers(), first.numbers(), second.numbers()}, plain = exact;
  for (int t = 1; t <= 3; ++t) {
    const Matrix gradient = c.input(Dtype::f32, {1, kSize}, c.normal(kSize, t == 2 ? 1e-6 : 1));  // eps counts
    a.gradient = gradient.floats();
    a.correction1 = static_cast<float>(1 - std::pow(double{kBeta1}, t));
    a.correction2 = static_cast<float>(1 - std::pow(double{kBeta2}, t));
    c.run([&] { c.table().adamw(a, c.stream()); });
    if (!c.checks()) continue;
    step_reference<double>(exact, gradient.numbers(), parameters, t);
    step_reference<float>(plain, gradient.numbers(), parameters, t);
    const std::string step = " after step " + std::to_string(t);
    c.expect_close("value" + step, value, exact.value, plain.value, {});
    c.expect_close("first moment" + step, first, exact.first, plain.first, {});
    c.expect_close("second moment" + step, second, exact.second, plain.second, {});
    expect_copies(c, parameters, value);
  }
}

void run_square_sum(Context& c, int64_t count, double deviation) {
  const Matrix x = c.input(Dtype::f32, {1, count}, c.normal(count, deviation));
  auto* workspace = static_cast<double*>(c.memory(kSquareSumBlocks * sizeof(double)));
  auto* sum = static_cast<double*>(c.memory(sizeof(double)));
  c.run([&] { c.table().square_sum({count, x.floats(), workspace, sum}, c.stream()); });
  double exact = 0;
  for (const double number : x.numbers()) exact += number * number;
  const double ours = c.read(sum, 1)[0];
  c.expect(std::abs(ours - exact) <= 1e-13 * exact,
           "sum of squares " + std::to_string(ours) + ", exactly " + std::to_string(exact));
}

}  // namespace

std::vector<Case> adamw_cases() {
  std::vector<Case> cases;
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16}) {
    cases.push_back({"adamw", std::string("adamw_") + name_of(dtype), [=](Context& c) { run_steps(c, dtype); }});
  }
  // More than each of the 512 blocks' 256 threads has one of; squares that fp32 could not hold.
  cases.push_back({"square_sum", "square_sum_131500", [](Context& c) { run_square_sum(c, 131500, 1e25); }});
  cases.push_back({"square_sum", "square_sum_0", [](Context& c) { run_square_sum(c, 0, 1); }});
  return cases;
}

}  // namespace rankfold::kernels::testing
