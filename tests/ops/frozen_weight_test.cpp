// Weights that are decoded give what the dense weights of the same values give.
#include "ops/frozen_weight.h"
#include "ops/ops.h"
#include "ops/project.h"
#include "support.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace rankfold {
namespace {

constexpr int64_t kRows = 3000, kInputs = 2048;  // more than a block of few rows, neither way a multiple of it

std::vector<PackedWeight> parts_in(const std::string& kind) {
  const at::Tensor first = random({kRows - 7, kInputs}, 0.02).to(at::kBFloat16);
  const at::Tensor second = random({7, kInputs}, 0.5).to(at::kBFloat16);
  if (kind == "plain") return {ops::plain_weight(first), ops::plain_weight(second)};
  std::vector<PackedWeight> parts{ops::quantize(first, *meaning_of(kQuantizationTypes, kind)),
                                  ops::quantize(second, *meaning_of(kQuantizationTypes, kind))};
  if (kind == "nf4") ops::nest_scales(parts[0]);
  return parts;
}

class Decoded : public ::testing::TestWithParam<std::string> {};

TEST_P(Decoded, BlocksAndRowsAreThoseOfTheWhole) {
  DecodedWeight weight(parts_in(GetParam()), GetParam(), at::kFloat, std::make_shared<WeightScratch>());
  const at::Tensor all = weight.copy();
  EXPECT_TRUE(weight.whole().equal(all));
  EXPECT_TRUE(weight.block(100, 2995, 0, kInputs).equal(all.narrow(0, 100, 2895)));
  EXPECT_TRUE(weight.block(0, kRows, 192, 832).equal(all.narrow(1, 192, 640)));
  const at::Tensor rows = at::empty({12, kInputs}, at::kDouble);
  weight.copy_rows(kRows - 12, rows);
  EXPECT_TRUE(rows.equal(all.narrow(0, kRows - 12, 12).to(at::kDouble)));
  const at::Tensor half = at::empty({5, kInputs}, at::kHalf);
  weight.copy_rows(3, half);
  EXPECT_TRUE(half.equal(all.narrow(0, 3, 5).to(at::kHalf)));
  const at::Tensor indices = at::tensor({kRows - 1, int64_t{0}, int64_t{77}, kRows - 8, int64_t{77}}, at::kLong);
  EXPECT_TRUE(weight.select_rows(indices).equal(all.index_select(0, indices)));
  EXPECT_EQ(weight.is_quantized(), GetParam() != "plain");
  int64_t bytes = 0;
  for (const at::Tensor& x : weight.tensors()) bytes += static_cast<int64_t>(x.nbytes());
  EXPECT_EQ(weight.bytes(), bytes);
  EXPECT_LE(bytes, kRows * kInputs * (GetParam() == "plain" ? 2 : 1) + 64 * kRows);
}

TEST_P(Decoded, ProjectsAsTheDenseWeight) {
  Projection decoded = make_projection({{kRows - 7, 7}, kInputs, 4, {kRows - 7, 7}}, false);
  decoded.frozen =
      std::make_shared<DecodedWeight>(parts_in(GetParam()), GetParam(), at::kFloat, std::make_shared<WeightScratch>());
  Projection dense = decoded, exact = decoded;
  dense.frozen = std::make_shared<DenseWeight>(decoded.frozen->copy());
  exact.frozen = std::make_shared<DenseWeight>(decoded.frozen->copy().to(at::kDouble));
  const at::Tensor x = random({20, kInputs}).to(at::kFloat), dy = random({20, kRows}).to(at::kFloat);
  const auto run = [&](Projection& p, at::ScalarType dtype) {
    const ops::Input input{ops::Source::plain, x.to(dtype)};
    ops::Projected forward = ops::project(input, p, {}, {});
    ops::ProjectedGradient back = ops::project_backward(dy.to(dtype), input, p, {}, forward.s, {}, true);
    return std::pair(forward.y, back.d_in);
  };
  const auto [y, dx] = run(decoded, at::kFloat);
  const auto [y_dense, dx_dense] = run(dense, at::kFloat);
  const auto [y_exact, dx_exact] = run(exact, at::kDouble);
  expect_parity(y, y_dense, y_exact, at::kFloat, GetParam() + ": y");
  expect_parity(dx, dx_dense, dx_exact, at::kFloat, GetParam() + ": dx");
}

TEST(Dense, PrefetchReadsNothingIntoTheValue) {
  const at::Tensor source = random({4, 3}).to(at::kFloat);
  DenseWeight weight(at::zeros({4, 3}), [source](const at::Tensor& value) { value.copy_(source); }, {source});
  weight.prefetch();
  EXPECT_FALSE(weight.is_filled());
  const at::Tensor indices = at::tensor({int64_t{3}, int64_t{1}}, at::kLong);
  EXPECT_TRUE(weight.select_rows(indices).equal(source.index_select(0, indices)));
  EXPECT_TRUE(weight.is_filled());
  weight.prefetch();
  EXPECT_TRUE(weight.whole().equal(source));
}

INSTANTIATE_TEST_SUITE_P(Kinds, Decoded, ::testing::Values("plain", "nf4", "fp4", "int8", "fp8"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace rankfold
