// Weights in fewer bits have the same bits wherever they are decoded: on the CPU, and by the kernel.
#include "fused/backend.h"
#include "ops/frozen_weight.h"
#include "ops/support.h"

#include <gtest/gtest.h>

namespace rankfold {
namespace {

using testing::Kernels;

PackedWeight grouped_weight(int64_t rows, int64_t columns, int32_t bits, bool is_listed) {
  constexpr int64_t kGroup = 32;
  const int64_t groups = (columns + kGroup - 1) / kGroup;
  const auto integers = [](int64_t most, at::IntArrayRef shape) { return at::randint(most + 1, shape, at::kByte); };
  PackedWeight weight;
  weight.packing = kernels::Packing::grouped;
  weight.rows = rows, weight.columns = columns;
  weight.rounded = at::kHalf;
  weight.codes = integers(255, {rows, (columns * bits + 7) / 8});
  weight.scale = random({rows, groups}).to(at::kFloat);
  weight.zero = integers(bits == 4 ? 16 : 255, {rows, groups});
  weight.scale_columns = kGroup;
  weight.bits = bits;
  if (is_listed) weight.group_of = at::randint(groups, {columns}, at::kInt);
  return weight;
}

TEST(DecodedWeights, HaveTheSameBitsEverywhere) {
  for (const int64_t columns : {192, 37}) {
    const at::Tensor exact = random({21, columns}, 0.05).to(at::kBFloat16);
    const at::Tensor other = random({6, columns}, 3).to(at::kFloat);
    std::vector<std::pair<std::string, std::vector<PackedWeight>>> all = {
        {"plain", {ops::plain_weight(exact), ops::plain_weight(other)}},
        {"4 bits, groups", {grouped_weight(9, columns, 4, false), grouped_weight(5, columns, 4, true)}},
        {"8 bits, groups", {grouped_weight(9, columns, 8, false), grouped_weight(5, columns, 8, true)}}};
    for (const Quantization type : {Quantization::nf4, Quantization::fp4, Quantization::int8, Quantization::fp8}) {
      all.push_back({"quantised", {ops::quantize(exact, type), ops::quantize(other, type)}});
      if (type != Quantization::nf4 && type != Quantization::fp4) continue;
      all.push_back({"nested", all.back().second});
      for (PackedWeight& part : all.back().second) ops::nest_scales(part);
    }
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      const auto scratch = std::make_shared<WeightScratch>();  // of a model, which has one dtype
      for (const auto& [name, parts] : all) {
        std::vector<PackedWeight> there;
        for (const PackedWeight& part : parts) there.push_back(part.to(at::Device(Kernels(true).device())));
        DecodedWeight here(parts, name, dtype, scratch), decoded(there, name, dtype, scratch);
        EXPECT_TRUE(at::equal(decoded.whole().cpu(), here.whole())) << name << ", " << columns << " columns, " << dtype;
        const at::Tensor rows = at::empty({9, columns}, here.whole().options());  // of both parts
        here.copy_rows(4, rows);
        EXPECT_TRUE(at::equal(decoded.whole().narrow(0, 4, 9).cpu(), rows))
            << name << ", " << columns << " columns, " << dtype;
        const at::Tensor indices = at::tensor({int64_t{5}, int64_t{0}, int64_t{13}}, at::kLong);
        EXPECT_TRUE(at::equal(decoded.select_rows(indices.to(decoded.device())).cpu(), here.select_rows(indices)))
            << name << ", " << columns << " columns, " << dtype;
      }
    }
  }
}

}  // namespace
}  // namespace rankfold
