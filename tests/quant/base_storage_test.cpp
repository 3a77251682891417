#include "quant/base_storage.h"

#include "rankfold/error.h"
#include "support/temp_folder.h"

namespace rankfold {
namespace {

using testing::expect_error;

TEST(BaseStorage, WhatTheSettingsAskFor) {
  const auto text = [](const LoadConfig& config) {
    const std::optional<BaseStorage> storage = storage_of(config);
    return storage ? text_of(*storage) : "";
  };
  EXPECT_EQ(text({}), "");
  EXPECT_EQ(text({.quantization_bit = 4}), "nf4");
  EXPECT_EQ(text({.quantization_bit = 8}), "int8");
  EXPECT_EQ(text({.load_in_4bit = true}), "nf4");
  EXPECT_EQ(text({.load_in_8bit = true}), "int8");
  EXPECT_EQ(text({.quantization_bit = 8, .load_in_8bit = true}), "int8");
  EXPECT_EQ(text({.quantization_type = "fp8"}), "fp8");
  EXPECT_EQ(text({.quantization_bit = 4, .quantization_type = "fp4"}), "fp4");
  EXPECT_EQ(text({.quantization_bit = 4, .double_quantization = true}), "nf4, nested scales");
  EXPECT_EQ(text({.quantization_bit = 4, .double_quantization = true, .quantize_lm_head = true}),
            "nf4, nested scales, with lm_head");
  EXPECT_EQ(text({.quantization_type = "fp4", .double_quantization = true}), "fp4, nested scales");
}

// The flags say what the text says.
TEST(BaseStorage, Flags) {
  EXPECT_EQ(flags_of({.type = Quantization::fp8}), "--quantization_type fp8");
  EXPECT_EQ(flags_of({.type = Quantization::int8, .has_head = true}), "--quantization_type int8 --quantize_lm_head");
  const BaseStorage nested{.type = Quantization::nf4, .is_nested = true};
  EXPECT_EQ(flags_of(nested), "--quantization_type nf4 --double_quantization");
  EXPECT_EQ(storage_of({.quantization_type = "nf4", .double_quantization = true}), nested);
}

TEST(BaseStorage, SettingsThatContradictEachOther) {
  const auto expect = [](const LoadConfig& config, const std::string& line) {
    expect_error<UserError>([&] { storage_of(config); }, line);
  };
  expect({.quantization_bit = 3}, "quantization_bit: expected 0, 4 or 8, got 3");
  expect({.quantization_bit = 8, .load_in_4bit = true},
         "load_in_4bit: expected false where 8 bits are asked for, got true");
  expect({.load_in_4bit = true, .load_in_8bit = true},
         "load_in_8bit: expected false where 4 bits are asked for, got true");
  expect({.quantization_bit = 4, .quantization_type = "int8"},
         "quantization_type: expected nf4 or fp4 for 4 bits, got \"int8\"");
  expect({.quantization_type = "nf4", .load_in_8bit = true},
         "quantization_type: expected int8 or fp8 for 8 bits, got \"nf4\"");
  expect({.quantization_type = "q4"}, "quantization_type: expected auto, nf4, fp4, int8 or fp8, got \"q4\"");
  expect({.quantization_bit = 8, .double_quantization = true},
         "double_quantization: expected a base in nf4 or fp4, got int8");
  expect({.quantize_lm_head = true},
         "quantize_lm_head: expected quantization_bit or quantization_type with it, got neither");
  expect({.double_quantization = true}, "double_quantization: expected a base in nf4 or fp4, got one as it is stored");
}

}  // namespace
}  // namespace rankfold
