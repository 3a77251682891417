// decode_attention.h.
#include <cmath>

#include "kernels/cases.h"

namespace rankfold::kernels::testing {
namespace {

struct Problem {
  Dtype dtype = Dtype::f32;
  int64_t query_heads = 0, key_value_heads = 0, d = 0;
  std::vector<int64_t> positions;    // of the tokens, each in a slot of its own
  int64_t capacity = 0, window = 0;  // positions
  float scale = 0.5f, soft_cap = 0;
  bool has_slopes = false;
  int64_t offset = 0, extra = 0;  // elements: of bases beyond 16 bytes, of pitches beyond the width

  int64_t m() const { return static_cast<int64_t>(positions.size()); }
  int64_t width() const { return (query_heads + 2 * key_value_heads) * d; }
  int64_t slot(int64_t token) const { return m() - 1 - token; }
  int64_t row(int64_t token, int64_t head, int64_t position) const {
    return (slot(token) * key_value_heads + head) * capacity + position;
  }
};

struct Tensors {
  Matrix qkv, keys, values, slopes;
};

DecodeAttention struct_of(Context& c, const Problem& p, const Tensors& t) {
  DecodeAttention a;
  a.dtype = p.dtype;
  a.m = p.m(), a.query_heads = p.query_heads, a.key_value_heads = p.key_value_heads, a.d = p.d;
  a.qkv = t.qkv.data(), a.ld_qkv = t.qkv.ld();
  a.keys = t.keys.data(), a.values = t.values.data();
  a.capacity = p.capacity;
  std::vector<int64_t> slots;
  for (int64_t i = 0; i < p.m(); ++i) slots.push_back(p.slot(i));
  a.slot_M = c.array(slots), a.position_M = c.array(p.positions);
  for (const int64_t position : p.positions) a.longest = std::max(a.longest, position + 1);
  a.scale = p.scale, a.soft_cap = p.soft_cap, a.window = p.window;
  a.slopes = t.slopes ? t.slopes.floats() : nullptr;
  return a;
}

template <class Real>
Numbers attention(const Problem& p, const Tensors& t) {
  Numbers out;
  const int64_t group = p.query_heads / p.key_value_heads;
  for (int64_t i = 0; i < p.m(); ++i)
    for (int64_t head = 0; head < p.query_heads; ++head) {
      const int64_t position = p.positions[static_cast<size_t>(i)];
      const int64_t first = p.window > 0 && position >= p.window ? position - p.window + 1 : 0;
      std::vector<Real> weights;
      Real largest = -INFINITY, sum = 0;
      for (int64_t key = first; key <= position; ++key) {
        Real score = 0;
        for (int64_t j = 0; j < p.d; ++j)
          score += Real(t.qkv(i, head * p.d + j)) * Real(t.keys(p.row(i, head / group, key), j));
        score *= Real(p.scale);
        if (p.soft_cap > 0) score = Real(p.soft_cap) * std::tanh(score / Real(p.soft_cap));
        if (t.slopes) score -= Real(t.slopes(0, head)) * Real(position - key);
        weights.push_back(score);
        largest = std::max(largest, score);
      }
      for (Real& weight : weights) sum += weight = std::exp(weight - largest);
      for (int64_t j = 0; j < p.d; ++j) {
        Real y = 0;
        for (int64_t key = first; key <= position; ++key)
          y += Real(stored(weights[static_cast<size_t>(key - first)], p.dtype)) *
               Real(t.values(p.row(i, head / group, key), j));
        out.push_back(stored(y / sum, p.dtype));
      }
    }
  return out;
}

void run_attention(Context& c, const Problem& p) {
  const int64_t rows = p.m() * p.key_value_heads * p.capacity;
  Tensors t;
  t.qkv = c.input(p.dtype, {p.m(), p.width(), p.width() + p.extra, 0, p.offset}, c.normal(p.m() * p.width()));
  t.keys = c.input(p.dtype, {rows, p.d, 0, 0, p.offset}, c.normal(rows * p.d));
  t.values = c.input(p.dtype, {rows, p.d, 0, 0, p.offset}, c.normal(rows * p.d));
  if (p.has_slopes) {
    Numbers slopes;
    for (int64_t i = 0; i < p.query_heads; ++i) slopes.push_back(std::pow(2.0, -0.5 * static_cast<double>(i)));
    t.slopes = c.input(Dtype::f32, {1, p.query_heads}, slopes);
  }
  const int64_t features = p.query_heads * p.d;
  const Matrix out = c.output(p.dtype, {p.m(), features, features + p.extra, 0, p.offset});
  DecodeAttention a = struct_of(c, p, t);
  a.out = out.data(), a.ld_out = out.ld();
  a.workspace = static_cast<float*>(c.memory(static_cast<size_t>(c.table().decode_workspace(a))));
  c.run([&] { c.table().decode_attention(a, c.stream()); });
  if (!c.checks()) return;
  c.expect_close("out", out, attention<double>(p, t), attention<float>(p, t), {.terms = p.d + a.longest});
}

void run_append(Context& c, const Problem& p) {
  const int64_t rows = p.m() * p.key_value_heads * p.capacity;
  Tensors t;
  t.qkv = c.input(p.dtype, {p.m(), p.width(), p.width() + p.extra, 0, p.offset}, c.normal(p.m() * p.width()));
  const Numbers keys = c.normal(rows * p.d), values = c.normal(rows * p.d);
  t.keys = c.in_out(p.dtype, {rows, p.d, 0, 0, p.offset}, keys);
  t.values = c.in_out(p.dtype, {rows, p.d, 0, 0, p.offset}, values);
  const DecodeAttention a = struct_of(c, p, t);
  c.run([&] { c.table().cache_append(a, c.stream()); });
  if (!c.checks()) return;
  const auto check = [&](const char* what, const Matrix& cache, const Numbers& before, int64_t first_head) {
    std::vector<int64_t> token_of(static_cast<size_t>(rows), -1);
    for (int64_t i = 0; i < p.m(); ++i)
      for (int64_t head = 0; head < p.key_value_heads; ++head)
        token_of[static_cast<size_t>(p.row(i, head, p.positions[static_cast<size_t>(i)]))] = i;
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t j = 0; j < p.d; ++j) {
        const int64_t token = token_of[static_cast<size_t>(row)], head = row / p.capacity % p.key_value_heads;
        const double expected = token >= 0 ? t.qkv(token, (first_head + head) * p.d + j)
                                           : rounded(before[static_cast<size_t>(row * p.d + j)], p.dtype);
        if (cache(row, j) != expected) return c.expect(false, std::string(what) + " of row " + std::to_string(row));
      }
  };
  check("keys", t.keys, keys, p.query_heads);
  check("values", t.values, values, p.query_heads + p.key_value_heads);
}

std::vector<Problem> problems() {
  std::vector<Problem> all;
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16}) {
    all.push_back({dtype, 2, 2, 16, {0, 5, 40}, 48});
    all.push_back({dtype, 6, 2, 8, {127, 128, 300, 3}, 310, 0, 0.7f, 0, false, 0, 8});  // more than a chunk
    all.push_back({dtype, 7, 1, 20, {130, 1}, 140, 0, 0.3f, 0, false, 1, 3});           // more heads than a block takes
    all.push_back({dtype, 2, 1, 64, {270, 9}, 280, 130});
    all.push_back({dtype, 2, 1, 6, {40, 200}, 201, 7});
    all.push_back({dtype, 4, 2, 8, {3, 140}, 144, 0, 1, 1.5f});
    all.push_back({dtype, 6, 3, 9, {5, 139}, 150, 0, 0.5f, 0, true});
    all.push_back({dtype, 4, 1, 24, {160}, 161, 50, 0.8f, 2, true});
    all.push_back({dtype, 1, 1, 264, {33}, 40});
    all.push_back({dtype, 2, 1, 8, {}, 8});
  }
  return all;
}

std::string name(const char* kernel, const Problem& p) {
  return std::string(kernel) + "_" + name_of(p.dtype) + "_m" + std::to_string(p.m()) + "_heads" +
         std::to_string(p.query_heads) + "_" + std::to_string(p.key_value_heads) + "_d" + std::to_string(p.d) +
         (p.window ? "_window" + std::to_string(p.window) : "") + (p.soft_cap > 0 ? "_cap" : "") +
         (p.has_slopes ? "_slopes" : "") + (p.offset ? "_odd_base" : "") + (p.extra ? "_pitched" : "");
}

}  // namespace

std::vector<Case> decode_cases() {
  std::vector<Case> cases;
  for (const Problem& p : problems()) {
    cases.push_back({"decode_attention", name("decode_attention", p), [p](Context& c) { run_attention(c, p); }});
    cases.push_back({"cache_append", name("cache_append", p), [p](Context& c) { run_append(c, p); }});
  }
  return cases;
}

}  // namespace rankfold::kernels::testing
