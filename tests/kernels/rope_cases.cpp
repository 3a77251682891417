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
  int64_t plain = 0;  // features at the end of a head that are not turned
  bool norm = false;
  float gain_offset = 0;
  bool grouped = false;  // what comes in, or with sign -1 what goes out, has its heads in groups

  int64_t rotary() const { return d - plain; }
  // Where a head stands in groups: the queries of a key/value head, then it, then its value head.
  int64_t place(int64_t head) const {
    const int64_t group = query_heads / key_value_heads;
    if (head < query_heads) return head / group * (group + 2) + head % group;
    const int64_t key = head - query_heads;
    return key % key_value_heads * (group + 2) + group + key / key_value_heads;
  }
  bool is_turned(int64_t head) const { return head < query_heads + key_value_heads; }
};

constexpr int64_t kPositions = 50;
constexpr float kEps = 1e-2f;  // large enough to see that it is there

// What came in and what else the kernel reads.
struct Numerics {
  Numbers in;        // [m, heads of q, k, v]
  Numbers x;         // likewise: before the norm, where the kernel goes back
  Numbers gains[2];  // of q, k
  std::vector<int64_t> line;
  Numbers cos, sin;
};

template <class Real>
Numbers reference(const Problem& p, const Numerics& numbers) {
  const int64_t width = (p.query_heads + 2 * p.key_value_heads) * p.d, half = p.rotary() / 2;
  Numbers y = numbers.in;  // v passes
  const auto n = [](int64_t i) { return static_cast<size_t>(i); };
  for (int64_t m = 0; m < p.m; ++m) {
    for (int64_t head = 0; p.is_turned(head); ++head) {
      const int64_t begin = m * width + head * p.d;
      std::vector<Real> z(n(p.d));
      for (int64_t i = 0; i < p.d; ++i) z[n(i)] = Real(numbers.in[n(begin + i)]);
      const auto turn = [&] {
        for (int64_t i = 0; i < half; ++i) {
          const size_t angle = n(numbers.line[n(m)] * half + i);
          const Real c = Real(numbers.cos[angle]), s = Real(p.sign) * Real(numbers.sin[angle]);
          const Real first = z[n(i)], second = z[n(i + half)];
          z[n(i)] = first * c - second * s;
          z[n(i + half)] = second * c + first * s;
        }
      };
      if (p.sign < 0) turn();
      if (p.norm) {
        const Numbers &gain = numbers.gains[head < p.query_heads ? 0 : 1], &from = p.sign < 0 ? numbers.x : numbers.in;
        Real square = 0, dot = 0;
        for (int64_t i = 0; i < p.d; ++i) {
          const Real x = Real(from[n(begin + i)]);
          square += x * x;
          z[n(i)] *= Real(gain[n(i)]) + Real(p.gain_offset);
          dot += z[n(i)] * x;
        }
        const Real rstd = 1 / std::sqrt(square / Real(p.d) + Real(kEps));
        for (int64_t i = 0; i < p.d; ++i) {
          const Real x = Real(from[n(begin + i)]);
          z[n(i)] = p.sign < 0 ? rstd * (z[n(i)] - x * (rstd * rstd * dot / Real(p.d))) : z[n(i)] * rstd;
        }
      }
      if (p.sign > 0) turn();
      for (int64_t i = 0; i < p.d; ++i) y[n(begin + i)] = stored(z[n(i)], p.dtype);
    }
  }
  return y;
}

void run(Context& c, const Problem& p) {
  const int64_t width_q = p.query_heads * p.d, width_kv = p.key_value_heads * p.d, width = width_q + 2 * width_kv;
  const int64_t half = p.rotary() / 2;
  Numerics all_numbers;
  const auto shape = [&](int64_t cols) { return Shape{p.m, cols, cols + p.extra, 0, p.offset}; };
  Numbers angles = c.normal(kPositions * half, 2), cosines, sines;
  for (const double angle : angles) cosines.push_back(std::cos(angle)), sines.push_back(std::sin(angle));
  const Matrix cos = c.input(Dtype::f32, {kPositions, half}, cosines);
  const Matrix sin = c.input(Dtype::f32, {kPositions, half}, sines);
  all_numbers.line.resize(static_cast<size_t>(p.m));
  for (int64_t& x : all_numbers.line) x = c.integer(0, kPositions);

  Numbers& numbers = all_numbers.in;
  numbers.resize(static_cast<size_t>(p.m * width));
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
  const auto in_groups = [&](const Numbers& apart) {
    Numbers moved(apart.size());
    for (int64_t i = 0; i < p.m * width; ++i) {
      const int64_t row = i / width, head = i % width / p.d;
      moved[static_cast<size_t>(row * width + p.place(head) * p.d + i % p.d)] = apart[static_cast<size_t>(i)];
    }
    return moved;
  };
  Matrix moved;  // numbers stay apart
  if (p.grouped && p.sign > 0) moved = c.input(p.dtype, shape(width), in_groups(numbers));
  if (p.from != From::own_buffer) out = c.output(p.dtype, shape(width));

  Rope r;
  r.dtype = p.dtype;
  r.m = p.m, r.query_heads = p.query_heads, r.key_value_heads = p.key_value_heads, r.d = p.d;
  r.rotary = p.rotary();
  r.q = q.data(), r.k = k.data(), r.v = v.data();
  r.ld_q = q.ld(), r.ld_k = k.ld(), r.ld_v = v.ld();
  r.out = out.data(), r.ld_out = out.ld();
  if (p.grouped) {
    (p.sign > 0 ? r.from_group : r.to_group) = p.query_heads / p.key_value_heads;
    if (p.sign > 0) r.q = r.k = r.v = moved.data(), r.ld_q = r.ld_k = r.ld_v = moved.ld();
  }
  r.line_M = c.array(all_numbers.line);
  r.cos = cos.floats(), r.sin = sin.floats();
  r.sign = p.sign;
  Matrix gains[2], x;
  if (p.norm) {
    for (int i = 0; i < 2; ++i) {
      Numbers gain = c.normal(p.d);
      for (double& g : gain) g = 1 + 0.3 * g;
      gains[i] = c.input(p.dtype, {1, p.d}, gain);
      all_numbers.gains[i] = gains[i].numbers();
    }
    r.q_gain_D = gains[0].data(), r.k_gain_D = gains[1].data();
    r.q_eps = r.k_eps = kEps;
    r.gain_offset = p.gain_offset;
    if (p.sign < 0) {
      x = c.input(p.dtype, shape(width), c.normal(p.m * width));
      r.x = x.data(), r.ld_x = x.ld();
      all_numbers.x.resize(numbers.size());
      for (int64_t m = 0; m < p.m; ++m)
        for (int64_t i = 0; i < width; ++i) all_numbers.x[static_cast<size_t>(m * width + i)] = x(m, i);
    }
  }
  c.run([&] { c.table().rope(r, c.stream()); });
  if (!c.checks()) return;

  all_numbers.cos = cos.numbers(), all_numbers.sin = sin.numbers();
  Numbers exact = reference<double>(p, all_numbers), plain = reference<float>(p, all_numbers);
  if (p.grouped && p.sign < 0) exact = in_groups(exact), plain = in_groups(plain), numbers = in_groups(numbers);
  c.expect_close("out", out, exact, plain, {});
  for (int64_t head = p.query_heads + p.key_value_heads; head < p.query_heads + 2 * p.key_value_heads; ++head) {
    const int64_t first = (p.grouped && p.sign < 0 ? p.place(head) : head) * p.d;
    for (int64_t m = 0; m < p.m; ++m)
      for (int64_t i = first; i < first + p.d; ++i)
        if (out(m, i) != numbers[static_cast<size_t>(m * width + i)]) return c.expect(false, "v was changed");
  }
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
    for (const float sign : {1.0f, -1.0f}) {
      all.push_back({dtype, From::one_buffer, 9, 2, 1, 48, 0, 0, sign, 16});
      all.push_back({dtype, From::three_buffers, 5, 2, 1, 10, 0, 0, sign, 4});
      all.push_back({dtype, From::one_buffer, 17, 4, 2, 64, 0, 8, sign, 0, true});
      all.push_back({dtype, From::three_buffers, 9, 3, 1, 22, 1, 3, sign, 6, true});
      all.push_back({dtype, From::one_buffer, 3, 2, 2, 16, 0, 0, sign, 16, true});
      all.push_back({dtype, From::one_buffer, 9, 4, 1, 32, 0, 0, sign, 0, true, 1});
      all.push_back({dtype, From::three_buffers, 9, 6, 2, 32, 0, 8, sign, 0, false, 0, true});
      all.push_back({dtype, From::three_buffers, 5, 4, 1, 10, 0, 0, sign, 2, false, 0, true});
    }
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
                         std::to_string(p.key_value_heads) + "_d" + std::to_string(p.d) + (p.norm ? "_norm" : "") +
                         (p.gain_offset > 0 ? "_offset" : "") + (p.grouped ? "_grouped" : "") +
                         (p.plain ? "_plain" + std::to_string(p.plain) : "") + (p.offset ? "_odd_base" : "") +
                         (p.extra ? "_pitched" : "") + (p.sign < 0 ? "_back" : ""),
                     [p](Context& c) { run(c, p); }});
  }
  return cases;
}

}  // namespace rankfold::kernels::testing
