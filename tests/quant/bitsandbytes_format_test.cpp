#include "quant/bitsandbytes_format.h"

#include "quant/quantized_folder.h"
#include "support/temp_folder.h"

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include <map>

namespace rankfold {
namespace {

using nlohmann::json;
using testing::TempFolder;

std::string text_in(const at::Tensor& bytes) {
  return {static_cast<const char*>(bytes.const_data_ptr()), bytes.nbytes()};
}

TEST(BitsandbytesFormat, NamesAndState) {
  at::manual_seed(1);
  const at::Tensor matrix = at::randn({64, 96});
  PackedWeight weight = ops::quantize(matrix, Quantization::nf4);
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, tensor] : bitsandbytes_tensors("a.weight", weight, Quantization::nf4, at::kBFloat16))
    tensors[name] = tensor;
  ASSERT_EQ(tensors.size(), 4u);
  EXPECT_EQ(tensors.at("a.weight").sizes(), at::IntArrayRef({64 * 96 / 2, 1}));
  EXPECT_EQ(tensors.at("a.weight.absmax").sizes(), at::IntArrayRef({96}));
  EXPECT_EQ(tensors.at("a.weight.quant_map").sizes(), at::IntArrayRef({16}));
  EXPECT_EQ(text_in(tensors.at("a.weight.quant_state.bitsandbytes__nf4")),
            R"({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [64, 96]})");
  ops::nest_scales(weight);
  weight.offset = 0.051616668701171875f;
  tensors.clear();
  for (const auto& [name, tensor] : bitsandbytes_tensors("a.weight", weight, Quantization::fp4, at::kHalf))
    tensors[name] = tensor;
  ASSERT_EQ(tensors.size(), 6u);
  EXPECT_EQ(tensors.at("a.weight.absmax").scalar_type(), at::kByte);
  EXPECT_EQ(tensors.at("a.weight.nested_absmax").sizes(), at::IntArrayRef({1}));
  EXPECT_EQ(tensors.at("a.weight.nested_quant_map").sizes(), at::IntArrayRef({256}));
  EXPECT_EQ(text_in(tensors.at("a.weight.quant_state.bitsandbytes__fp4")),
            R"({"quant_type": "fp4", "blocksize": 64, "dtype": "float16", "shape": [64, 96], "nested_blocksize": 256, )"
            R"("nested_dtype": "float32", "nested_offset": 0.051616668701171875})");
  EXPECT_THROW(bitsandbytes_tensors("a", weight, Quantization::nf4, at::kHalf), std::invalid_argument);
  EXPECT_THROW(bitsandbytes_tensors("a.weight", weight, Quantization::fp8, at::kHalf), std::invalid_argument);
}

TEST(BitsandbytesFormat, Settings) {
  const json settings = bitsandbytes_config({Quantization::nf4, true}, at::kBFloat16, {"lm_head"});
  EXPECT_EQ(settings,
            json::parse(R"({"_load_in_4bit": true, "_load_in_8bit": false, "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8", "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": true,
    "llm_int8_enable_fp32_cpu_offload": false, "llm_int8_has_fp16_weight": false, "llm_int8_skip_modules": ["lm_head"],
    "llm_int8_threshold": 6.0, "load_in_4bit": true, "load_in_8bit": false, "quant_method": "bitsandbytes"})"));
  const json of_int8 = bitsandbytes_config({Quantization::int8, false}, at::kFloat, {});
  EXPECT_EQ(of_int8["load_in_8bit"], true);
  EXPECT_EQ(of_int8["load_in_4bit"], false);
  EXPECT_TRUE(of_int8["llm_int8_skip_modules"].is_null());
  EXPECT_THROW(bitsandbytes_config({Quantization::fp8, false}, at::kFloat, {}), std::invalid_argument);
}

// What was quantised, written and read again is what it was.
TEST(BitsandbytesFormat, RoundTrip) {
  at::manual_seed(2);
  for (const Quantization type : {Quantization::nf4, Quantization::fp4, Quantization::int8})
    for (const bool nested : {false, true})
      for (const at::ScalarType source : {at::kFloat, at::kBFloat16, at::kHalf}) {
        if (nested && type == Quantization::int8) continue;
        const TempFolder folder;
        PackedWeight weight = ops::quantize(at::randn({33, 70}).to(source), type);
        if (nested) ops::nest_scales(weight);
        folder.write("config.json",
                     json{{"dtype", "float32"},
                          {"quantization_config", bitsandbytes_config({type, nested}, source, {"lm_head"})}}
                         .dump());
        write_tensor_file(folder / "model.safetensors", bitsandbytes_tensors("a.weight", weight, type, source));
        const auto opened = QuantizedFolder::open(ModelFolder::open(folder.path()));
        ASSERT_TRUE(opened);
        const PackedWeight again = opened->weight("a", 33, 70);
        EXPECT_TRUE(again.codes.flatten().view(at::kByte).equal(weight.codes.flatten().view(at::kByte)));
        EXPECT_TRUE(again.scale.flatten().equal(weight.scale.flatten()));
        EXPECT_EQ(again.offset, weight.offset);
        at::Tensor before = at::empty({33, 70}), after = at::empty({33, 70});
        ops::decode(weight, 0, 33, 0, 70, before);
        ops::decode(again, 0, 33, 0, 70, after);
        if (type != Quantization::int8) {  // which nobody rounds on its way into fp32
          EXPECT_EQ(again.rounded, source);
          before = before.to(source).to(at::kFloat);
        }
        EXPECT_TRUE(before.equal(after));
      }
}

}  // namespace
}  // namespace rankfold
