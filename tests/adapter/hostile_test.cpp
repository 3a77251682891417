// Adapter folders from strangers.
#include "adapter/peft_format.h"
#include "rankfold/tensor_file.h"
#include "support/imposters.h"
#include "support/sanitizers.h"
#include "support/stopwatch.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <limits>

namespace rankfold {
namespace {

using nlohmann::json;
using testing::contains;
using testing::error_of;
using testing::expect_error;
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
      match_adapter(read_adapter_folder(folder_.path()), {.modules = {{"layers.0.q_proj", 8, 6, false}}});
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
      {R"("r":2,"lora_alpha":0)", "lora_alpha: expected a number above 0, finite in float32, got 0"},
      {R"("r":2,"lora_alpha":"16")", "lora_alpha: expected"},
      {R"("r":2,"lora_dropout":1)", "lora_dropout: expected a number in [0, 1), got 1"},
      {R"("r":2,"use_rslora":1)", "use_rslora: expected true or false, got 1"},
      {R"("r":2,"rank_pattern":{"q_proj":0})", "rank_pattern: expected an object of integers in [1, 4096]"},
      {R"("r":2,"rank_pattern":["q_proj"])", "rank_pattern: expected"},
      {R"("r":2,"rank_pattern":{"(":2})",
       R"(rank_pattern: "(" is not a regular expression: missing closing parenthesis)"},
      {R"("r":2,"alpha_pattern":{"q_proj":-1})", "alpha_pattern: expected an object of numbers above 0"},
      {R"("r":2,"layers_to_transform":[-1])", "layers_to_transform: expected a list of layer indices"},
      {R"("r":2,"layers_to_transform":[7])", "nothing is left after exclude_modules and layers_to_transform"},
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
    EXPECT_TRUE(contains(error(), "expected A and B of one rank, got A "));
  }
  write_tensors({{key("A"), at::zeros({0, 6})}, {key("B"), at::zeros({8, 0})}});
  EXPECT_TRUE(contains(error(), "expected rank 2 as in adapter_config.json"));
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
  const testing::Stopwatch watch;
  const auto matches = match_modules(config, linears, IdleEntries::kAllowed);
  EXPECT_LT(watch.seconds(), 1);
  for (size_t i = 0; i < matches.size(); ++i) EXPECT_EQ(matches[i].r, static_cast<int64_t>(i / 7 + 1));
  const ModuleRanks ranks(config);
  const auto rank = [&](const char* name) { return ranks.match({name, 8, 8, false}).r; };
  EXPECT_EQ(rank("other.x.q_proj"), 99);
  EXPECT_EQ(rank("otherx.q_proj"), config.r);
  EXPECT_EQ(rank("x.q_proj"), 99);
  EXPECT_EQ(rank(".q_proj"), config.r);
}

// Steps that each go through thousands of empty matches, or keep a place for each of thousands of groups; and what is
// cheap by itself, but not for every module.
TEST(Match, ExpressionsCostLittleForAWholeModel) {
  std::vector<LinearModule> linears;
  for (int layer = 0; layer < 32; ++layer)
    for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
      linears.push_back({"model.layers." + std::to_string(layer) + ".self_attn." + name, 8, 8, false});
  const auto repeated = [](const std::string& part, int times, const std::string& end) {
    std::string text;
    for (int i = 0; i < times; ++i) text += part;
    return text + end;
  };
  for (const std::string& pattern :
       {repeated(R"(\w*)", 6600, ""), repeated(R"(\w*)", 660, ""), repeated("[^a]*", 3900, ""),
        repeated("(.?)", 4750, "[xz]"), repeated("(.\?\?)", 3900, "[xz]"), std::string("(.*.*.*.*.*)[xz]|.*down_proj"),
        std::string("(.*.*.*.*)[xz]|.*down_proj")}) {
    for (const bool is_target : {true, false}) {
      LoraConfig config;
      config.target_modules = "all-linear";
      if (is_target)
        config.target_modules = pattern;
      else
        config.rank_pattern = {{pattern, 4}, {pattern + "|x", 5}, {"y|" + pattern, 6}};
      const testing::Stopwatch watch;
      try {
        match_modules(config, linears);
      } catch (const UserError& error) {
        EXPECT_LT(std::string(error.what()).size(), 1000u);
      }
      EXPECT_LT(watch.seconds(), testing::kSanitized ? 60 : 10) << pattern.substr(0, 80);
    }
  }
  std::string names;  // a model's names in full are no such pattern
  for (const LinearModule& module : linears) names += (names.empty() ? "" : "|") + module.name;
  LoraConfig config;
  config.target_modules = names;
  EXPECT_EQ(match_modules(config, linears).size(), linears.size());
}

// Lists that are long for nothing.
TEST(Match, ManyEntriesCostLittle) {
  std::vector<LinearModule> linears;
  for (int layer = 0; layer < 2000; ++layer)
    linears.push_back({"model.layers." + std::to_string(layer) + ".mlp.up_proj", 8, 8, false});
  LoraConfig config;
  config.layers_to_transform.assign(1'000'000, 31);
  StringList names(300'000, "up_proj");
  for (int i = 0; i < 2000; ++i) names.push_back(linears[static_cast<size_t>(i)].name);
  config.target_modules = names;
  const testing::Stopwatch watch;
  EXPECT_EQ(match_modules(config, linears).size(), 2000u);  // each is named in full
  config = {};
  config.target_modules = "all-linear";
  for (int i = 0; i < 100'000; ++i) config.alpha_pattern["x" + std::to_string(i)] = 1;
  EXPECT_TRUE(contains(error_of<UserError>([&] { match_modules(config, linears); }),
                       "alpha_pattern: 100000 entries are too many for this model"));
  EXPECT_LT(watch.seconds(), testing::kSanitized ? 100 : 10);
}

TEST_F(HostileAdapter, ALongNameIsNotComparedWithAll) {
  const std::string name(1 << 20, 'a');
  write_tensors({{"base_model.model." + name + ".lora_A.weight", at::ones({2, 6})},
                 {"base_model.model." + name + ".lora_B.weight", at::ones({8, 2})}});
  const testing::Stopwatch watch;
  const std::string line = error();
  EXPECT_LT(watch.seconds(), 5);
  EXPECT_TRUE(contains(line, "adapter_model.safetensors: module 'aaa"));
  EXPECT_TRUE(contains(line, " is not in the base model"));
  EXPECT_LT(line.size(), 1000u);
}

TEST(Match, ExpressionsAreNotWithoutEnd) {
  LoraConfig config;
  config.target_modules = "all-linear";
  for (int i = 0; i <= 1000; ++i) config.rank_pattern["(a" + std::to_string(i) + ")"] = 1;
  expect_error<UserError>([&] { ModuleRanks{config}; }, "rank_pattern: expected at most 1000 regular expressions");
}

}  // namespace
}  // namespace rankfold
