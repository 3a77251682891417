// rope.h.
#include <cmath>

#include "kernels/cases.h"

namespace rankfold::kernels::testing {
namespace {

enum class From { own_buffer, one_buffer, three_buffers };  // out is q's buffer; q, k, v lie side by side; each apart

struct Problem {
  Dtype dtype = Dtype::f32;
  From from = From::own_buffer;
  int64_t m = 0, query_heads = 0, key_value_heads = 0, d = 0;
  int64_t offset = 0, extra = 0;  // elements: of bases beyond 16 bytes, of pitches beyond the width
  float sign = 1;
};

constexpr int64_t kPositions = 50;

template <class Real>
Numbers reference(const Problem& p, const Numbers& x, const std::vector<int64_t>& position, const Numbers& cos,
                  const Numbers& sin) {
  const int64_t width = (p.query_heads + 2 * p.key_value_heads) * p.d, half = p.d / 2;
  Numbers y = x;  // v passes
  for (int64_t m = 0; m < p.m; ++m) {
    for (int64_t head = 0; head < p.query_heads + p.key_value_heads; ++head) {
      for (int64_t i = 0; i < half; ++i) {
        const auto first = static_cast<size_t>(m * width + head * p.d + i), second = first + static_cast<size_t>(half);
        const auto angle = static_cast<size_t>(position[static_cast<size_t>(m)] * half + i);
        const Real c = Real(cos[angle]), s = Real(p.sign) * Real(sin[angle]);
        y[first] = stored(Real(x[first]) * c - Real(x[second]) * s, p.dtype);
        y[second] = stored(Real(x[second]) * c + Real(x[first]) * s, p.dtype);
      }
    }
  }
  return y;
}

void run(Context& c, const Problem& p) {
  const int64_t width_q = p.query_heads * p.d, width_kv = p.key_value_heads * p.d, width = width_q + 2 * width_kv;
  const int64_t half = p.d / 2;
  const auto shape = [&](int64_t cols) { return Shape{p.m, cols, cols + p.extra, 0, p.offset}; };
  Numbers angles = c.normal(kPositions * half, 2), cosines, sines;
  for (const double angle : angles) cosines.push_back(std::cos(angle)), sines.push_back(std::sin(angle));
  const Matrix cos = c.input(Dtype::f32, {kPositions, half}, cosines);
  const Matrix sin = c.input(Dtype::f32, {kPositions, half}, sines);
  std::vector<int64_t> position(static_cast<size_t>(p.m));
  for (int64_t& x : position) x = c.integer(0, kPositions);

  Numbers numbers(static_cast<size_t>(p.m * width));
  Matrix q, k, v, out;
  if (p.from == From::three_buffers) {
    q = c.input(p.dtype, shape(width_q), c.normal(p.m * width_q));
    k = c.input(p.dtype, shape(width_kv), c.normal(p.m * width_kv));
    v = c.input(p.dtype, shape(width_kv), c.normal(p.m * width_kv));
  } else {
    const Numbers all = c.normal(p.m * width);
    out = p.from == From::own_buffer ? c.in_out(p.dtype, shape(width), all) : c.input(p.dtype, shape(width), all);
    q = out.columns(0, width_q), k = out.columns(width_q, width_kv), v = out.columns(width_q + width_kv, width_kv);
  }
  for (int64_t m = 0; m < p.m; ++m) {
    for (int64_t i = 0; i < width; ++i) {
      const double x = i < width_q              ? q(m, i)
                       : i < width_q + width_kv ? k(m, i - width_q)
                                                : v(m, i - width_q - width_kv);
      numbers[static_cast<size_t>(m * width + i)] = x;
    }
  }
  if (p.from != From::own_buffer) out = c.output(p.dtype, shape(width));

  Rope r;
  r.dtype = p.dtype;
  r.m = p.m, r.query_heads = p.query_heads, r.key_value_heads = p.key_value_heads, r.d = p.d;
  r.q = q.data(), r.k = k.data(), r.v = v.data();
  r.ld_q = q.ld(), r.ld_k = k.ld(), r.ld_v = v.ld();
  r.out = out.data(), r.ld_out = out.ld();
  r.position_M = c.array(position);
  r.cos = cos.floats(), r.sin = sin.floats();
  r.sign = p.sign;
  c.run([&] { c.table().rope(r, c.stream()); });
  if (!c.checks()) return;

  const Numbers exact = reference<double>(p, numbers, position, cos.numbers(), sin.numbers());
  c.expect_close("out", out, exact, reference<float>(p, numbers, position, cos.numbers(), sin.numbers()), {});
  for (int64_t m = 0; m < p.m; ++m)
    for (int64_t i = width_q + width_kv; i < width; ++i)
      if (out(m, i) != numbers[static_cast<size_t>(m * width + i)]) return c.expect(false, "v was changed");
}

std::vector<Problem> problems() {
  std::vector<Problem> all;
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16}) {
    all.push_back({dtype, From::own_buffer, 17, 4, 4, 16});
    all.push_back({dtype, From::own_buffer, 33, 4, 2, 64, 0, 8, -1});
    all.push_back({dtype, From::own_buffer, 5, 3, 1, 6, 1, 3});
    all.push_back({dtype, From::one_buffer, 17, 2, 2, 8});
    all.push_back({dtype, From::one_buffer, 9, 4, 1, 32, 0, 8});
    all.push_back({dtype, From::three_buffers, 16, 4, 2, 64});
    all.push_back({dtype, From::three_buffers, 17, 4, 1, 6, 0, 1, -1});
    all.push_back({dtype, From::three_buffers, 3, 1, 1, 16, 1});
    all.push_back({dtype, From::own_buffer, 0, 1, 1, 16});
  }
  return all;
}

}  // namespace

std::vector<Case> rope_cases() {
  constexpr const char* kFrom[] = {"_own_buffer", "_one_buffer", "_three_buffers"};
  std::vector<Case> cases;
  for (const Problem& p : problems()) {
    cases.push_back({"rope",
                     std::string("rope_") + name_of(p.dtype) + kFrom[static_cast<int>(p.from)] + "_m" +
                         std::to_string(p.m) + "_heads" + std::to_string(p.query_heads) + "_" +
                         std::to_string(p.key_value_heads) + "_d" + std::to_string(p.d) +
                         (p.offset ? "_odd_base" : "") + (p.extra ? "_pitched" : "") + (p.sign < 0 ? "_back" : ""),
                     [p](Context& c) { run(c, p); }});
  }
  return cases;
}

}  // namespace rankfold::kernels::testing
