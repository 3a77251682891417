// Adapter folders from strangers.
#include "adapter/peft_format.h"
#include "rankfold/tensor_file.h"
#include "support/imposters.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <chrono>
#include <limits>

namespace rankfold {
namespace {

using nlohmann::json;
using testing::contains;
using testing::error_of;
using testing::expect_imposters_are_named;
using testing::TempFolder;

std::string key(const std::string& part) { return "base_model.model.layers.0.q_proj.lora_" + part + ".weight"; }

class HostileAdapter : public ::testing::Test {
 protected:
  void SetUp() override {
    write_config(R"({"peft_type":"LORA","r":2,"lora_alpha":4,"target_modules":["q_proj"]})");
    write_tensors({{key("A"), at::ones({2, 6})}, {key("B"), at::ones({8, 2})}});
    EXPECT_EQ(error(), "");
  }
  void write_config(const std::string& text) { folder_.write("adapter_config.json", text); }
  void write_tensors(const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
    write_tensor_file(folder_ / "adapter_model.safetensors", tensors);
  }
  std::string error() {
    return error_of<UserError>([&] {
      match_adapter(read_adapter_folder(folder_.path()), {{"layers.0.q_proj", 8, 6, false}});
    });
  }
  TempFolder folder_;
};

TEST_F(HostileAdapter, Imposters) {
  expect_imposters_are_named(folder_ / "adapter_config.json", [&] { read_adapter_folder(folder_.path()); });
  SetUp();
  expect_imposters_are_named(folder_ / "adapter_model.safetensors", [&] { read_adapter_folder(folder_.path()); });
}

TEST_F(HostileAdapter, Numbers) {
  const std::pair<const char*, const char*> cases[] = {
      {R"("r":-1)", "r: expected an integer in [1, 4096], got -1"},
      {R"("r":2147483648)", "r: expected an integer in [1, 4096], got 2147483648"},
      {R"("r":"2")", "r: expected"},
      {R"("r":true)", "r: expected"},
      {R"("r":2,"lora_alpha":NaN)", "adapter_config.json:1:"},
      {R"("r":2,"lora_alpha":1e999)", "adapter_config.json:1:"},
      {R"("r":2,"lora_alpha":0)", "lora_alpha: expected a number above 0, got 0"},
      {R"("r":2,"lora_alpha":"16")", "lora_alpha: expected"},
      {R"("r":2,"lora_dropout":1)", "lora_dropout: expected a number in [0, 1), got 1"},
      {R"("r":2,"use_rslora":1)", "use_rslora: expected true or false, got 1"},
      {R"("r":2,"rank_pattern":{"q_proj":0})", "rank_pattern: expected an object of integers in [1, 4096]"},
      {R"("r":2,"rank_pattern":["q_proj"])", "rank_pattern: expected"},
      {R"("r":2,"rank_pattern":{"(":2})", "rank_pattern: '(' is not a regular expression"},
      {R"("r":2,"alpha_pattern":{"q_proj":-1})", "alpha_pattern: expected an object of numbers above 0"},
      {R"("r":2,"layers_to_transform":[-1])", "layers_to_transform: expected a list of layer indices"},
      {R"("r":2,"layers_to_transform":[7])", "layers_to_transform: expected indices of layers"},
      {R"("r":2,"r":2)", "key \"r\" is given twice"},
  };
  for (const auto& [fields, text] : cases) {
    write_config(R"({"peft_type":"LORA","target_modules":["q_proj"],)" + std::string(fields) + "}");
    EXPECT_TRUE(contains(error(), text)) << fields;
  }
}

TEST_F(HostileAdapter, ShapesOffByOne) {
  for (const auto& [a, b] : {std::pair{at::ones({2, 7}), at::ones({8, 2})},
                             {at::ones({2, 6}), at::ones({9, 2})},
                             {at::ones({2, 5}), at::ones({8, 2})},
                             {at::ones({2, 6}), at::ones({7, 2})},
                             {at::ones({2, 6}), at::ones({2, 8})}}) {
    write_tensors({{key("A"), a}, {key("B"), b}});
    EXPECT_TRUE(contains(error(), "adapter_model.safetensors: module 'layers.0.q_proj': expected "));
  }
  for (const auto& [a, b] : {std::pair{at::ones({3, 6}), at::ones({8, 2})}, {at::ones({2, 6}), at::ones({8, 1})}}) {
    write_tensors({{key("A"), a}, {key("B"), b}});
    EXPECT_TRUE(contains(error(), "expected rank 2 as in adapter_config.json"));
  }
  write_tensors({{key("A"), at::zeros({0, 6})}, {key("B"), at::zeros({8, 0})}});
  EXPECT_TRUE(contains(error(), "expected rank 2"));
}

TEST_F(HostileAdapter, ValuesThatAreNoNumbers) {
  write_config(R"({"peft_type":"LORA","r":2,"target_modules":["q_proj"]})");
  for (const double value : {std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()}) {
    at::Tensor b = at::ones({8, 2});
    b[7][1] = value;
    write_tensors({{key("A"), at::ones({2, 6})}, {key("B"), b}});
    EXPECT_TRUE(contains(error(), "q_proj.lora_B.weight': expected finite numbers, got NaN or infinity"));
  }
}

// As PEFT's initialisers write them: a rank for each module by its whole name.
TEST_F(HostileAdapter, APatternForEveryModuleOfALargeModel) {
  LoraConfig config;
  config.target_modules = "all-linear";
  std::vector<LinearModule> linears;
  for (int layer = 0; layer < 80; ++layer)
    for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}) {
      linears.push_back({"model.layers." + std::to_string(layer) + ".x." + name, 8, 8, false});
      config.rank_pattern[linears.back().name] = layer + 1;
    }
  config.rank_pattern["x.q.proj"] = 99;  // the dot is any character
  const auto start = std::chrono::steady_clock::now();
  const auto matches = match_modules(config, linears);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
  for (size_t i = 0; i < matches.size(); ++i) EXPECT_EQ(matches[i].r, static_cast<int64_t>(i / 7 + 1));
  EXPECT_EQ(match_one(config, {"other.x.q_proj", 8, 8, false}).r, 99);
  EXPECT_EQ(match_one(config, {"otherx.q_proj", 8, 8, false}).r, config.r);
  EXPECT_EQ(match_one(config, {"x.q_proj", 8, 8, false}).r, 99);
  EXPECT_EQ(match_one(config, {".q_proj", 8, 8, false}).r, config.r);
}

}  // namespace
}  // namespace rankfold
