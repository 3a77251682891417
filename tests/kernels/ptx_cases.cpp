// ptx.h and philox.h: what each instruction must give, computed from its description.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdio>
#include <limits>

#include "kernels/cases.h"
#include "kernels/low_rank.h"
#include "kernels/ptx_kernels.h"

namespace rankfold::kernels::testing {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

bool same(double a, double b) { return a == b ? std::signbit(a) == std::signbit(b) : std::isnan(a) && std::isnan(b); }

std::string text(double x) {
  char line[64];
  std::snprintf(line, sizeof line, "%a", x);
  return line;
}

// Every number of 16 bits; to 16 bits numbers at, halfway between and just beside halfway between two neighbours.
void run_conversions(Context& c, Dtype dtype) {
  std::vector<uint16_t> narrow;
  for (uint32_t bits = 0; bits < 65536; ++bits) narrow.push_back(static_cast<uint16_t>(bits));
  const uint32_t infinity = dtype == Dtype::f16 ? 0x7c00 : 0x7f80;
  std::vector<float> wide = {kInfinity, -kInfinity, std::nanf(""), -std::nanf(""), 1e38f,
                             -1e38f,    3.4e38f,    65519.96f,     1e-45f,         -1e-45f};
  for (uint32_t bits = 0; bits < infinity; bits += bits < 2100 || bits + 64 > infinity ? 1 : 7) {
    const double here = number_of_bits(bits, dtype);
    const double next =
        bits + 1 < infinity ? number_of_bits(bits + 1, dtype) : 2 * here - number_of_bits(bits - 1, dtype);
    const auto half = static_cast<float>((here + next) / 2);
    for (const float x : {static_cast<float>(here), half, std::nextafterf(half, 0), std::nextafterf(half, kInfinity)})
      wide.push_back(x), wide.push_back(-x);
  }
  Conversions p;
  p.dtype = dtype;
  p.narrow_count = static_cast<int64_t>(narrow.size()), p.wide_count = static_cast<int64_t>(wide.size());
  p.narrow_in = c.array(narrow), p.wide_in = c.array(wide);
  p.wide = static_cast<float*>(c.memory(narrow.size() * sizeof(float)));
  p.narrow = static_cast<uint16_t*>(c.memory(wide.size() * sizeof(uint16_t)));
  p.packed = static_cast<uint32_t*>(c.memory(wide.size() / 2 * sizeof(uint32_t)));
  c.run([&] { conversions(p, c.stream()); });
  if (!c.checks()) return;

  const auto widened = c.read(p.wide, narrow.size());
  for (uint32_t bits = 0; bits < 65536; ++bits)
    if (!same(widened[bits], number_of_bits(bits, dtype)))
      return c.expect(false, "to_float of bits " + std::to_string(bits) + " is " + text(widened[bits]));
  const auto narrowed = c.read(p.narrow, wide.size());
  const auto packed = c.read(p.packed, wide.size() / 2);
  for (size_t i = 0; i < wide.size(); ++i) {
    const double exact = rounded(wide[i], dtype);
    const uint32_t in_pair = packed[i / 2] >> (i % 2 == 0 ? 0 : 16) & 0xffff;
    if (!same(number_of_bits(narrowed[i], dtype), exact) || !same(number_of_bits(in_pair, dtype), exact))
      return c.expect(false, text(wide[i]) + " becomes " + text(number_of_bits(narrowed[i], dtype)) + ", in a pair " +
                                 text(number_of_bits(in_pair, dtype)) + ", exactly " + text(exact));
  }
}

double tf32_reference(float x) {
  if (!std::isfinite(x) || x == 0) return x;
  const double unit = std::ldexp(1, std::max(std::ilogb(x), -126) - 10);
  return static_cast<float>(std::copysign(std::floor(std::abs(double{x}) / unit + 0.5) * unit, x));
}

void run_tf32(Context& c) {
  std::vector<float> x = {0.0f, -0.0f, kInfinity, -kInfinity, std::nanf(""), std::numeric_limits<float>::max(), 1e-45f};
  for (int i = 0; i < 4000; ++i) {
    const auto bits = static_cast<uint32_t>(c.integer(0, int64_t{1} << 32));
    for (const uint32_t low : {0u, 0xfffu, 0x1000u, 0x1001u})  // exact, and about halfway
      x.push_back(std::bit_cast<float>((bits & ~0x1fffu) | low));
  }
  auto* y = static_cast<float*>(c.memory(x.size() * sizeof(float)));
  c.run([&] { tf32({static_cast<int64_t>(x.size()), c.array(x), y}, c.stream()); });
  const auto ours = c.read(y, x.size());
  for (size_t i = 0; i < x.size(); ++i)
    if (!same(ours[i], tf32_reference(x[i])))
      return c.expect(false, text(x[i]) + " becomes " + text(ours[i]) + ", exactly " + text(tf32_reference(x[i])));
}

// Numbers below the normal ones may become zero.
void run_approximations(Context& c) {
  std::vector<float> x = {0.0f, kInfinity, -kInfinity, std::nanf("")};
  for (int i = 0; i < 4000; ++i) x.push_back(static_cast<float>(c.integer(-(1 << 20), 1 << 20)) * 0x1p-13f);  // to 128
  auto* exponential = static_cast<float*>(c.memory(x.size() * sizeof(float)));
  auto* reciprocal = static_cast<float*>(c.memory(x.size() * sizeof(float)));
  c.run([&] { approximations({static_cast<int64_t>(x.size()), c.array(x), exponential, reciprocal}, c.stream()); });
  const auto exps = c.read(exponential, x.size()), reciprocals = c.read(reciprocal, x.size());
  const auto close = [](double ours, double exact, double limit) {
    if (std::abs(exact) > double{std::numeric_limits<float>::max()}) return ours == exact || std::isinf(ours);
    return same(ours, exact) || std::abs(ours - exact) <= std::abs(exact) * limit + 0x1p-126;
  };
  for (size_t i = 0; i < x.size(); ++i) {
    const double exact = std::exp(double{x[i]});
    const double limit = epsilon(Dtype::f32) * (2 + std::abs(x[i]));  // x log2(e) is rounded
    c.expect(close(exps[i], exact, limit), "e^" + text(x[i]) + " is " + text(exps[i]));
    c.expect(close(reciprocals[i], 1.0 / x[i], 2 * epsilon(Dtype::f32)),
             "1 / " + text(x[i]) + " is " + text(reciprocals[i]));
  }
}

// Exact where all products and sums are numbers of fp32: then every element must be equal, which also says that each
// lies where it should.
void run_product(Context& c, Dtype dtype, const std::string& what) {
  const int64_t k = dtype == Dtype::f32 ? 8 : 16;
  const auto draw = [&](int64_t count, bool small) {
    Numbers all = c.normal(count);
    for (double& x : all) {
      if (what != "random") x = static_cast<double>(c.integer(-8, 9));
      if (what == "subnormal" && small) x *= 0x1p-24;
      if (what == "random" && dtype == Dtype::f32) x = tf32_reference(static_cast<float>(x));
    }
    return all;
  };
  const Matrix a = c.input(dtype, {16, k}, draw(16 * k, true)), b = c.input(dtype, {8, k}, draw(8 * k, false));
  const Numbers before = draw(16 * 8, true);
  const Matrix sum = c.in_out(Dtype::f32, {16, 8}, before);
  c.run([&] { product({dtype, a.data(), b.data(), sum.floats()}, c.stream()); });
  for (int64_t i = 0; i < 16; ++i) {
    for (int64_t j = 0; j < 8; ++j) {
      double exact = rounded(before[static_cast<size_t>(i * 8 + j)], Dtype::f32), size = std::abs(exact);
      for (int64_t n = 0; n < k; ++n) exact += a(i, n) * b(j, n), size += std::abs(a(i, n) * b(j, n));
      const double limit = what == "random" ? 4 * epsilon(Dtype::f32) * size : 0;
      if (!(std::abs(sum(i, j) - exact) <= limit))
        return c.expect(false, "row " + std::to_string(i) + ", column " + std::to_string(j) + ": " + text(sum(i, j)) +
                                   ", exactly " + text(exact));
    }
  }
}

void run_turn(Context& c) {
  std::vector<uint32_t> x(32);
  for (uint32_t i = 0; i < 32; ++i) x[i] = 2 * i | (2 * i + 1) << 16;  // element (row, column): 8 row + column
  auto* y = static_cast<uint32_t*>(c.memory(32 * sizeof(uint32_t)));
  c.run([&] { turn({c.array(x), y}, c.stream()); });
  const auto turned = c.read(y, 32);
  for (uint32_t row = 0; row < 8; ++row)
    for (uint32_t column = 0; column < 8; ++column)
      c.expect((turned[row * 4 + column / 2] >> column % 2 * 16 & 0xffff) == column * 8 + row,
               "row " + std::to_string(row) + ", column " + std::to_string(column));
}

void run_copies(Context& c) {
  std::vector<float> x(512);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  auto* own = static_cast<float*>(c.memory(256 * sizeof(float)));
  auto* all = static_cast<float*>(c.memory(512 * sizeof(float)));
  c.run([&] { copies({c.array(x), own, all}, c.stream()); });
  const auto first = c.read(own, 256), reversed = c.read(all, 512);
  for (size_t i = 0; i < 256; ++i) c.expect(first[i] == x[i / 4 * 8 + i % 4], "own copy, " + std::to_string(i));
  for (size_t i = 0; i < 512; ++i) c.expect(reversed[i] == x[511 - i], "all copies, " + std::to_string(i));
}

void run_shuffles(Context& c) {
  std::vector<float> x(32);
  for (size_t i = 0; i < 32; ++i) x[i] = static_cast<float>(i);
  auto* y = static_cast<float*>(c.memory(32 * sizeof(float)));
  auto* z = static_cast<float*>(c.memory(32 * sizeof(float)));
  c.run([&] { shuffles({c.array(x), y, z}, c.stream()); });
  const auto crossed = c.read(y, 32), picked = c.read(z, 32);
  for (size_t i = 0; i < 32; ++i) {
    c.expect(crossed[i] == x[i ^ 5], "__shfl_xor_sync, lane " + std::to_string(i));
    c.expect(picked[i] == x[(i * 7 + 3) % 32], "__shfl_sync, lane " + std::to_string(i));
  }
}

void run_philox(Context& c) {
  using Words = std::array<uint32_t, 4>;
  struct Known {
    Words counter;
    std::array<uint32_t, 2> key;
    Words words;
  };
  // Of the paper's library, Random123 (kat_vectors).
  const std::vector<Known> known = {
      {{}, {}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}};
  std::vector<uint64_t> keys;
  std::vector<uint32_t> counters, expected;
  const auto add = [&](const Words& counter, const std::array<uint32_t, 2>& key, const Words& words) {
    keys.push_back(key[0] | uint64_t{key[1]} << 32);
    counters.insert(counters.end(), counter.begin(), counter.end());
    expected.insert(expected.end(), words.begin(), words.end());
  };
  for (const Known& one : known) {
    add(one.counter, one.key, one.words);
    c.expect(philox_reference(one.counter, one.key) == one.words, "the test's own Philox");
  }
  for (int i = 0; i < 1000; ++i) {
    std::array<uint32_t, 6> w{};
    for (uint32_t& x : w) x = static_cast<uint32_t>(c.integer(0, int64_t{1} << 32));
    add({w[0], w[1], w[2], w[3]}, {w[4], w[5]}, philox_reference({w[0], w[1], w[2], w[3]}, {w[4], w[5]}));
  }
  auto* words = static_cast<uint32_t*>(c.memory(expected.size() * sizeof(uint32_t)));
  c.run([&] {
    random_words({static_cast<int64_t>(keys.size()), c.array(keys), c.array(counters), words}, c.stream());
  });
  c.expect(c.read(words, expected.size()) == expected, "words that are not Philox's");
}

}  // namespace

std::vector<Case> ptx_cases() {
  std::vector<Case> cases;
  const auto add = [&](const std::string& name, const std::function<void(Context&)>& run) {
    cases.push_back({"ptx", "ptx_" + name, run});
  };
  for (const Dtype dtype : {Dtype::bf16, Dtype::f16})
    add(std::string("conversions_") + name_of(dtype), [=](Context& c) { run_conversions(c, dtype); });
  add("to_tf32", run_tf32);
  add("approximations", run_approximations);
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16})
    for (const std::string what : {"integers", "random"})
      add(std::string("mma_") + name_of(dtype) + "_" + what, [=](Context& c) { run_product(c, dtype, what); });
  add("mma_f16_subnormal", [](Context& c) { run_product(c, Dtype::f16, "subnormal"); });
  add("transpose_8x8", run_turn);
  add("copy_async", run_copies);
  add("shuffles", run_shuffles);
  add("philox", run_philox);
  return cases;
}

}  // namespace rankfold::kernels::testing
