// Small projections, batches and comparisons for the op tests.
#pragma once

#include "ops/backend.h"
#include "ops/dropout.h"
#include "ops/ops.h"
#include "support/sanitizers.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace rankfold {

// Where the ops under test work.
inline at::Device test_device = at::kCPU;
inline bool on_tensor_cores = false;  // on a CUDA device, where products are cut off instead of rounded

inline double epsilon(at::ScalarType dtype) {
  switch (dtype) {
    case at::kBFloat16:
      return 0x1p-8;
    case at::kHalf:
      return 0x1p-11;
    case at::kFloat:
      return 0x1p-23;
    default:
      return 0x1p-52;
  }
}
inline double worst(const at::Tensor& a, const at::Tensor& b) {
  const double error = (a.to(at::kCPU, at::kDouble) - b.to(at::kCPU, at::kDouble)).abs().max().item<double>();
  return std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
}
inline double bias(const at::Tensor& ours, const at::Tensor& exact) {  // |<y, e> / <e, e> - 1|: a wrong scale
  const at::Tensor e = exact.to(at::kCPU, at::kDouble).flatten();
  return std::abs((ours.to(at::kCPU, at::kDouble).flatten().dot(e) / e.dot(e)).item<double>() - 1);
}

// What the comparison of a result with the exact one finds, and what it allows.
struct Parity {
  double error = 0, error_limit = 0;                                         // of the worst element
  double bias = 0, bias_limit = 0;                                           // of the scale
  bool holds() const { return error <= error_limit && bias <= bias_limit; }  // a NaN does not
};
// The limits come from the dtype: twice the error of plain ATen in that dtype against double, at least 4 eps.
inline Parity parity_of(const at::Tensor& ours, const at::Tensor& plain, const at::Tensor& exact, at::ScalarType dtype,
                        bool tensor_cores) {
  // A row's attention weights are made again from its log-sum-exp, which is good to eps times its size.
  const double ulps = c10::elementSize(dtype) > 2 ? 16 : 4;
  const double floor = ulps * epsilon(dtype) * exact.abs().max().item<double>();
  // Kernels make a float32 product of three tf32 products, good to 2^-22 each; a constant factor is rounded once.
  const double factor = dtype == at::kFloat ? 32 : 16;
  // A sum that is not split into lanes is rounded once for each term; tensor cores cut it off instead, always downwards
  // (1.0e-6 at the worst on an H200). Sums of 16-bit numbers are fp32: that is nothing beside the rounding of a result.
  const double roundings = c10::elementSize(dtype) == 2 ? 2 : tensor_cores ? 16 : testing::kSanitized ? 8 : 2;
  const double noise = std::max({factor * epsilon(dtype) / std::sqrt(static_cast<double>(exact.numel())),
                                 roundings * epsilon(dtype), 8 * epsilon(at::kDouble)});
  return {.error = worst(ours, exact),
          .error_limit = std::max(2 * worst(plain, exact), floor),
          .bias = bias(ours, exact),
          .bias_limit = std::max(2 * bias(plain, exact), noise)};
}
inline void expect_parity(const at::Tensor& ours, const at::Tensor& plain, const at::Tensor& exact,
                          at::ScalarType dtype, const std::string& what) {
  ASSERT_EQ(ours.sizes(), exact.sizes()) << what;
  const Parity parity = parity_of(ours, plain, exact, dtype, on_tensor_cores);
  EXPECT_LE(parity.error, parity.error_limit) << what;
  EXPECT_LE(parity.bias, parity.bias_limit) << what << ": scale";
}

struct Shape {
  std::vector<int64_t> lengths;  // of the sequences
  int64_t k, r;
  std::vector<int64_t> outputs;  // of the modules
  double dropout = 0;
};

inline at::Tensor random(at::IntArrayRef shape, double scale = 1) { return at::randn(shape, at::kDouble) * scale; }

// A projection in double with random leaves; cast() gives the same numbers in another dtype.
inline Projection make_projection(const Shape& shape, bool trains_weight) {
  Projection p;
  int64_t begin = 0;
  for (size_t i = 0; i < shape.outputs.size(); ++i) {
    Module m;
    m.name = "module" + std::to_string(i);
    m.begin = begin, m.end = begin += shape.outputs[i];
    if (shape.r > 0) {
      LowRank& u = p.updates.emplace_back();
      u.begin = m.begin, u.end = m.end;
      u.a = random({shape.r, shape.k}, 1 / std::sqrt(static_cast<double>(shape.k)));
      u.b = random({shape.outputs[i], shape.r}, 0.3);
      u.scale = 1.5;
      u.index = static_cast<int64_t>(i) + 3;
    }
    p.modules.push_back(std::move(m));
  }
  p.frozen = std::make_shared<DenseWeight>(random({begin, shape.k}, 1 / std::sqrt(static_cast<double>(shape.k))));
  if (trains_weight)
    for (Module& m : p.modules) m.master = p.frozen->whole().narrow(0, m.begin, m.end - m.begin);
  return p;
}
// Leaves keep fp32 (double in double), as adapters do; they hold values that `dtype` represents, so that every dtype
// sees the same problem.
inline at::Tensor leaf_of(const at::Tensor& x, at::ScalarType dtype) {
  const at::ScalarType leaf = dtype == at::kDouble ? at::kDouble : at::kFloat;
  return x.detach().to(test_device, leaf).clone().requires_grad_(true);
}
inline Projection cast(const Projection& p, at::ScalarType dtype) {
  Projection out;
  out.frozen = std::make_shared<DenseWeight>(p.frozen->whole().to(test_device, dtype).clone());
  for (const Module& m : p.modules) {
    Module c;
    c.name = m.name, c.begin = m.begin, c.end = m.end;
    if (m.master.defined()) c.master = leaf_of(m.master, dtype), c.master_version = static_cast<uint32_t>(-1);
    out.modules.push_back(std::move(c));
  }
  for (const LowRank& u : p.updates) {
    LowRank& c = out.updates.emplace_back(u);
    c.a = leaf_of(u.a, dtype), c.b = leaf_of(u.b, dtype);
  }
  return out;
}
// Rounds every number to what bf16 holds.
inline void round_all(Projection& p) {
  const auto round = [](at::Tensor& x) {
    if (x.defined()) x = x.to(at::kBFloat16).to(at::kDouble);
  };
  at::Tensor weight = p.frozen->whole();
  round(weight);
  p.frozen = std::make_shared<DenseWeight>(weight);
  for (Module& m : p.modules)
    if (m.master.defined()) m.master = weight.narrow(0, m.begin, m.end - m.begin);
  for (LowRank& u : p.updates) round(u.a), round(u.b);
}

struct Layout {
  std::vector<int64_t> offsets{0};
  at::Tensor positions, rows;
};
inline Layout make_layout(const std::vector<int64_t>& lengths, int64_t first_row = 0) {
  Layout l;
  std::vector<at::Tensor> positions, rows;
  for (size_t b = 0; b < lengths.size(); ++b) {
    l.offsets.push_back(l.offsets.back() + lengths[b]);
    positions.push_back(at::arange(lengths[b], at::kLong));
    rows.push_back(at::full({lengths[b]}, first_row + static_cast<int64_t>(b), at::kInt));
  }
  l.positions = at::cat(positions).to(test_device);
  l.rows = at::cat(rows).to(test_device);
  return l;
}
inline Pass make_pass(const Layout& l, double dropout) {
  return {dropout, 0x123456789abcdefULL, 7, l.rows, l.positions.to(at::kInt)};
}
inline Rope make_rope(int64_t positions, int64_t half) {
  const at::Tensor angle = at::outer(at::arange(positions, at::kFloat), at::rand({half}, at::kFloat));
  return {angle.cos().to(test_device), angle.sin().to(test_device)};
}

}  // namespace rankfold
