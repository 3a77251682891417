// What a folder is computed in: as asked, or by dtype auto.
#include "rankfold/causal_lm.h"

#include "ops/product_speed.h"
#include "support/contains.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

#include <gtest/gtest.h>

namespace rankfold {
namespace {

class DtypeOfAFolder : public ::testing::Test {
 protected:
  CausalLM load(const std::string& stored, const std::string& asked) const {
    testing::write_tiny_model(folder_ / stored, {.dtype = stored});
    return CausalLM::load(folder_ / stored, {.device = "cpu", .dtype = asked});
  }
  static std::string notes_of(const CausalLM& model) {
    std::string all;
    for (const std::string& note : model.config().notes) all += note + "\n";
    return all;
  }
  const testing::TempFolder folder_;
};

TEST_F(DtypeOfAFolder, AutoTakesTheFasterProductOf16Bits) {
  const bool is_float32 = ops::prefers_float32(ops::product_speed());
  for (const char* stored : {"bfloat16", "float16"}) {
    const CausalLM model = load(stored, "auto");
    EXPECT_EQ(model.dtype(), is_float32 ? at::kFloat : at::kBFloat16) << stored;
    const std::string notes = notes_of(model);
    if (!is_float32)
      EXPECT_EQ(notes, "");
    else
      EXPECT_TRUE(testing::contains(notes, "dtype auto: computes in float32, whose products are "));
  }
  const CausalLM single = load("float32", "auto");
  EXPECT_EQ(single.dtype(), at::kFloat);
  EXPECT_EQ(notes_of(single), "");
}

TEST_F(DtypeOfAFolder, WhatIsAskedForIsNotMeasured) {
  for (const char* stored : {"float32", "bfloat16", "float16"})
    for (const auto& [asked, dtype] : {std::pair("float32", at::kFloat), std::pair("bf16", at::kBFloat16)}) {
      const CausalLM model = load(stored, asked);
      EXPECT_EQ(model.dtype(), dtype) << stored;
      EXPECT_EQ(notes_of(model), "");
    }
}

}  // namespace
}  // namespace rankfold
