#include "adapter/peft_format.h"

#include "rankfold/error.h"
#include "rankfold/tensor_file.h"
#include "support/temp_folder.h"

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <limits>

#pragma GCC diagnostic ignored "-Wmissing-field-initializers"  // LoraConfig{.r = 2, ...}: the rest has defaults

namespace rankfold {
namespace {

using nlohmann::json;
using testing::expect_error;
using testing::read_bytes;
using testing::TempFolder;
using Names = std::vector<std::string>;
using Tensors = std::vector<std::pair<std::string, at::Tensor>>;

// Two layers of q_proj [8, 6], down_proj [6, 10], and a head.
std::vector<LinearModule> linears() {
  std::vector<LinearModule> all;
  for (const char* layer : {"0", "1"}) {
    all.push_back({std::string("model.layers.") + layer + ".self_attn.q_proj", 8, 6, false});
    all.push_back({std::string("model.layers.") + layer + ".mlp.down_proj", 6, 10, false});
  }
  all.push_back({"lm_head", 20, 6, true});
  return all;
}

// The same with an embedding, and every tensor: q_proj has a bias.
BaseParts base() {
  BaseParts parts;
  parts.modules = linears();
  for (const LinearModule& m : parts.modules) {
    parts.tensors[m.name + ".weight"] = {m.out_features, m.in_features};
    if (m.name.ends_with("q_proj")) parts.tensors[m.name + ".bias"] = {m.out_features};
  }
  parts.embedding = "model.embed_tokens.weight", parts.head = "lm_head.weight";
  parts.tensors[parts.embedding] = {20, 6};
  parts.tensors["model.norm.weight"] = {6};
  parts.tensors["model.layers.0.input_layernorm.weight"] = {6};
  parts.modules.push_back({"model.embed_tokens", 6, 20, false, true});
  return parts;
}

Names matched(const LoraConfig& config) {
  Names names;
  for (const ModuleMatch& match : match_modules(config, linears())) names.push_back(match.module.name);
  return names;
}

const Names kQ{"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"};
const Names kDown{"model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"};
const Names kAll{kQ[0], kDown[0], kQ[1], kDown[1]};

TEST(Match, Targets) {
  EXPECT_EQ(matched({.target_modules = StringList{"q_proj"}}), kQ);
  EXPECT_EQ(matched({.target_modules = StringList{"self_attn.q_proj", "layers.0.mlp.down_proj"}}),
            (Names{kQ[0], kDown[0], kQ[1]}));
  EXPECT_EQ(matched({.target_modules = StringList{"lm_head"}}), Names{"lm_head"});
  EXPECT_EQ(matched({.target_modules = "all-linear"}), kAll);
  EXPECT_EQ(matched({.target_modules = "ALL-Linear"}), kAll);
  EXPECT_EQ(matched({.target_modules = R"(.*\.(self_attn|mlp)\.(q|down)_proj)"}), kAll);
  EXPECT_EQ(matched({.target_modules = R"(model\.layers\.[1-9]\..*)"}), (Names{kQ[1], kDown[1]}));
}

TEST(Match, ExcludedModulesAndLayers) {
  EXPECT_EQ(matched({.target_modules = "all-linear", .exclude_modules = StringList{"q_proj"}}), kDown);
  EXPECT_EQ(matched({.target_modules = "all-linear", .exclude_modules = R"(.*\.1\..*)"}), (Names{kQ[0], kDown[0]}));
  EXPECT_EQ(matched({.target_modules = StringList{"q_proj"}, .layers_to_transform = {1}}), Names{kQ[1]});
  // PEFT does not look at the layer of a name that is given in full.
  EXPECT_EQ(matched({.target_modules = StringList{kQ[0], "down_proj"}, .layers_to_transform = {1}}),
            (Names{kQ[0], kDown[1]}));
}

TEST(Match, RanksAndScales) {
  const LoraConfig config{.r = 8,
                          .lora_alpha = 16,
                          .target_modules = "all-linear",
                          .rank_pattern = {{"down_proj", 2}, {R"(layers\.0\..*)", 4}},
                          .alpha_pattern = {{"model.layers.1.self_attn.q_proj", 3}}};
  const auto matches = match_modules(config, linears());
  const std::vector<std::pair<int64_t, double>> expected{{4, 16}, {2, 16}, {8, 3}, {2, 16}};
  ASSERT_EQ(matches.size(), expected.size());
  for (size_t i = 0; i < matches.size(); ++i) {
    EXPECT_EQ(matches[i].r, expected[i].first);
    EXPECT_EQ(matches[i].alpha, expected[i].second);
    EXPECT_EQ(matches[i].scale, expected[i].second / static_cast<double>(expected[i].first));
  }
  const LoraConfig stabilised{.r = 9, .lora_alpha = 6, .target_modules = "all-linear", .use_rslora = true};
  EXPECT_EQ(match_modules(stabilised, linears())[0].scale, 2);
  // A key matches a whole name or what follows a dot: "proj" matches neither.
  const LoraConfig partial{.r = 9, .target_modules = "all-linear", .rank_pattern = {{"proj", 2}}};
  EXPECT_EQ(match_modules(partial, linears(), IdleEntries::kAllowed)[0].r, 9);
}

TEST(Match, TheFirstPatternCounts) {
  LoraConfig config{.r = 9, .target_modules = "all-linear"};
  const auto rank = [&] { return match_modules(config, linears(), IdleEntries::kAllowed)[0].r; };
  config.rank_pattern = {{"q_proj", 2}, {"layers.0.self_attn.q_proj", 3}};
  EXPECT_EQ(rank(), 2);
  config.rank_pattern = {{"layers.0.self_attn.q_proj", 3}, {"q_proj", 2}};
  EXPECT_EQ(rank(), 3);
}

// What a new run is told of, and an adapter may hold.
TEST(Match, EntriesThatDoNothing) {
  const auto expect = [](LoraConfig config, const std::string& text) {
    expect_error<UserError>([&] { match_modules(config, linears()); }, text);
    EXPECT_EQ(match_modules(config, linears(), IdleEntries::kAllowed).size(), 2u);
  };
  const ModuleNames targets = StringList{"q_proj"};
  expect({.target_modules = targets, .rank_pattern = {{"q_porj", 16}}},
         "rank_pattern: 'q_porj' matches no adapted module (did you mean 'q_proj'?)");
  expect({.target_modules = targets, .alpha_pattern = {{"down_proj", 16}}},
         "alpha_pattern: 'down_proj' matches no adapted module");
  expect(
      {.target_modules = targets, .alpha_pattern = {{"^q_proj", 16}}},
      "alpha_pattern: '^q_proj' matches no adapted module (an entry stands for a whole name, or for all that follows "
      "a dot in it: leave out ^ and $)");
  expect({.target_modules = targets, .rank_pattern = {{"base_model.model." + kQ[0], 16}}},
         "matches no adapted module (leave out base_model.model., which only the adapter's file has)");
  expect({.target_modules = targets, .rank_pattern = {{"q_proj", 2}, {"layers.0.self_attn.q_proj", 3}}},
         "rank_pattern: 'layers.0.self_attn.q_proj' does nothing, as 'q_proj' comes before it and matches the same "
         "modules: put 'layers.0.self_attn.q_proj' first");
  expect({.target_modules = targets, .exclude_modules = StringList{"k_proj"}},
         "exclude_modules: 'k_proj' matches no linear layer of this model, whose names are q_proj, down_proj, lm_head");
  expect({.target_modules = StringList{"q_proj", "base_model.model." + kQ[0]}},
         "target_modules: 'base_model.model.model.layers.0.self_attn.q_proj' matches no linear layer of this model");
  expect({.target_modules = StringList{"q_proj", "query_key_value"}},
         "target_modules: 'query_key_value' matches no linear layer of this model");
  // In part hidden, and excluding what is no target: both do no harm.
  EXPECT_NO_THROW(match_modules({.target_modules = targets,
                                 .exclude_modules = StringList{"lm_head"},
                                 .rank_pattern = {{"layers.0.self_attn.q_proj", 3}, {"q_proj", 2}}},
                                linears()));
  expect_error<UserError>([&] { match_modules({.target_modules = StringList{"x"}}, linears(), IdleEntries::kAllowed); },
                          "target_modules: 'x' matches no linear layer of this model");
}

TEST(Match, Refusals) {
  const auto expect = [](const LoraConfig& config, const std::string& text) {
    expect_error<UserError>([&] { matched(config); }, text);
  };
  expect({}, "target_modules: expected names of linear layers, got none; this model's are q_proj, down_proj, lm_head");
  expect({.target_modules = StringList{"q_proj", "q_prj"}},
         "target_modules: 'q_prj' matches no linear layer of this model, whose names are q_proj, down_proj, lm_head "
         "(did you mean 'q_proj'?)");
  expect({.target_modules = StringList{"proj"}}, "'proj' matches no linear layer");
  expect({.target_modules = StringList{""}}, "'' matches no linear layer");
  expect({.target_modules = "q_proj"},
         "'q_proj' matches no linear layer (q_proj, down_proj, lm_head); a string is a "
         "regular expression for the whole name, such as model.layers.0.self_attn.q_proj");
  expect({.target_modules = "(q_proj"},
         R"(target_modules: "(q_proj" is not a regular expression: missing closing parenthesis (byte 7))");
  expect({.target_modules = std::string(30'000, 'q') + ".*"},
         "target_modules: expected a regular expression of at most 20000 bytes, got 30002");
  expect({.target_modules = StringList{"q_proj"}, .exclude_modules = "["},
         R"(exclude_modules: "[" is not a regular expression that is supported (byte 0: "["))");
  expect({.target_modules = StringList{"q_proj"}, .exclude_modules = ".*"}, "nothing is left after exclude_modules");
  expect({.target_modules = StringList{"q_proj"}, .rank_pattern = {{"*", 2}}},
         R"(rank_pattern: "*" is not a regular expression: quantifier does not follow a repeatable item (byte 0))");
  expect({.target_modules = "all-linear", .layers_to_transform = {1}},
         "layers_to_transform: needs a list in target_modules");
}

// The most similar name would be that of another layer: q_proj and o_proj differ by one letter.
TEST(Match, NamesOfOtherFamilies) {
  const auto error = [](const LoraConfig& config, const Names& names) {
    std::vector<LinearModule> all;
    for (const std::string& name : names) all.push_back({"model.layers.0." + name, 8, 8, false});
    return testing::error_of<UserError>([&] { match_modules(config, all); });
  };
  const Names baichuan{"self_attn.W_pack", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"};
  const Names phi3{"self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"};
  const Names internlm2{"attention.wqkv", "attention.wo", "feed_forward.w1", "feed_forward.w3", "feed_forward.w2"};
  const Names llama{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
  const auto hint = [&](const std::string& entry, const Names& names) {
    const std::string line = error({.target_modules = StringList{entry}}, names);
    EXPECT_TRUE(line.starts_with("target_modules: '" + entry + "' matches no linear layer of this model")) << line;
    const size_t begin = line.find(" (");
    return begin == std::string::npos ? "" : line.substr(begin + 1);
  };
  for (const char* part : {"q_proj", "k_proj", "v_proj", "query", "key", "value", "self_attn.q_proj"}) {
    EXPECT_EQ(hint(part, baichuan), "(this model has W_pack, which holds q, k and v)") << part;
    EXPECT_EQ(hint(part, phi3), "(this model has qkv_proj, which holds q, k and v)") << part;
    EXPECT_EQ(hint(part, internlm2), "(this model has wqkv, which holds q, k and v)") << part;
  }
  for (const char* packed : {"W_pack", "qkv_proj", "query_key_value", "wqkv", "self_attn.W_pack"})
    EXPECT_EQ(hint(packed, llama), "(this model has q_proj, k_proj and v_proj)") << packed;
  EXPECT_EQ(hint("query_key_value", baichuan), "(this model has W_pack)");
  EXPECT_EQ(hint("gate_proj", phi3), "(this model has gate_up_proj, which holds gate and up)");
  EXPECT_EQ(hint("gate_up_proj", llama), "(this model has gate_proj and up_proj)");
  EXPECT_EQ(hint("gate_up_proj", internlm2), "(this model has w1 and w3)");
  EXPECT_EQ(hint("o_proj", internlm2), "(this model has wo)");
  EXPECT_EQ(hint("down_proj", internlm2), "(this model has w2)");
  EXPECT_EQ(hint("k_proj", {"self_attn.q_proj"}), "");  // not q_proj
  EXPECT_EQ(hint("q_porj", llama), "(did you mean 'q_proj'?)");

  const std::string line =
      error({.target_modules = StringList{"W_pack", "o_proj"}, .rank_pattern = {{"q_proj", 2}}}, baichuan);
  EXPECT_EQ(line, "rank_pattern: 'q_proj' matches no adapted module (this model has W_pack, which holds q, k and v)");
}

TEST(Match, AllLinearIsSpeltOneWay) {
  const auto expect = [](const ModuleNames& targets, const std::string& text) {
    expect_error<UserError>([&] { match_modules({.target_modules = targets}, linears()); }, text);
  };
  const std::string names = " matches no linear layer of this model, whose names are q_proj, down_proj, lm_head ";
  for (const std::string word : {"all_linear", "ALL_LINEAR", "all-linears", "all linear", "allLinear"})
    expect(StringList{word}, "target_modules: '" + word + "'" + names + "(did you mean 'all-linear'?)");
  expect("all_linear",
         "target_modules: 'all_linear' matches no linear layer (q_proj, down_proj, lm_head) (did you mean "
         "'all-linear'?); a string is a ");
  expect(StringList{"all-linear", "lm_head"},
         "'all-linear'" + names + "('all-linear' stands for all layers only as a string, not in a list)");
}

std::string key(const std::string& module, char part) {
  return "base_model.model." + module + ".lora_" + part + ".weight";
}

Tensors tensors_for(const LoraConfig& config) {
  Tensors tensors;
  for (const ModuleMatch& match : match_modules(config, linears(), IdleEntries::kAllowed)) {
    tensors.emplace_back(key(match.module.name, 'A'), at::randn({match.r, match.module.in_features}));
    tensors.emplace_back(key(match.module.name, 'B'), at::randn({match.module.out_features, match.r}));
  }
  return tensors;
}

TEST(PeftFormat, RoundTrip) {
  const TempFolder folder;
  const LoraConfig config{.r = 3,
                          .lora_alpha = 7.5,
                          .lora_dropout = 0.05,
                          .target_modules = StringList{"q_proj", "down_proj"},
                          .exclude_modules = StringList{"layers.1.mlp.down_proj"},
                          .use_rslora = true,
                          .rank_pattern = {{"down_proj", 2}, {"layers.1.self_attn.q_proj", 5}, {"a", 6}},
                          .alpha_pattern = {{"q_proj", 4}}};
  const Tensors tensors = tensors_for(config);
  std::filesystem::create_directory(folder / "out");
  write_adapter_folder(folder / "out", config, "/models/b", tensors);
  const AdapterFolder read = read_adapter_folder(folder / "out");
  EXPECT_EQ(read.base_model, "/models/b");
  EXPECT_EQ(read.config.r, 3);
  EXPECT_EQ(read.config.lora_alpha, 7.5);
  EXPECT_EQ(read.config.lora_dropout, 0.05);
  EXPECT_TRUE(read.config.use_rslora);
  EXPECT_EQ(read.config.rank_pattern, config.rank_pattern);
  EXPECT_EQ(read.config.alpha_pattern, config.alpha_pattern);
  EXPECT_EQ(std::get<StringList>(read.config.exclude_modules), std::get<StringList>(config.exclude_modules));
  EXPECT_EQ(read.tensors.size(), 3u);
  for (const auto& [name, tensor] : tensors) {
    const bool is_a = name.find("lora_A") != std::string::npos;
    const std::string module = name.substr(17, name.size() - 17 - 14);
    EXPECT_TRUE((is_a ? read.tensors.at(module).first : read.tensors.at(module).second).equal(tensor)) << name;
  }
  EXPECT_EQ(match_adapter(read, base()).modules.size(), 3u);
}

// adapter_config.json as PEFT writes it, down to the keys that came after 0.17.
TEST(PeftFormat, ConfigText) {
  const TempFolder folder;
  const LoraConfig config{.r = 4, .lora_alpha = 8, .target_modules = StringList{"q_proj", "down_proj"}};
  write_adapter_folder(folder.path(), config, "/tmp/base", tensors_for(config));
  const std::string expected = R"({
  "alpha_pattern": {},
  "auto_mapping": null,
  "base_model_name_or_path": "/tmp/base",
  "bias": "none",
  "corda_config": null,
  "eva_config": null,
  "exclude_modules": null,
  "fan_in_fan_out": false,
  "inference_mode": true,
  "init_lora_weights": true,
  "layer_replication": null,
  "layers_pattern": null,
  "layers_to_transform": null,
  "loftq_config": {},
  "lora_alpha": 8,
  "lora_bias": false,
  "lora_dropout": 0.0,
  "megatron_config": null,
  "megatron_core": "megatron.core",
  "modules_to_save": null,
  "peft_type": "LORA",
  "qalora_group_size": 16,
  "r": 4,
  "rank_pattern": {},
  "revision": null,
  "target_modules": [
    "down_proj",
    "q_proj"
  ],
  "target_parameters": null,
  "task_type": "CAUSAL_LM",
  "trainable_token_indices": null,
  "use_dora": false,
  "use_qalora": false,
  "use_rslora": false
})";
  EXPECT_EQ(read_bytes(folder / "adapter_config.json"), expected);
  EXPECT_NE(read_bytes(folder / "README.md").find("base_model: \"/tmp/base\"\nlibrary_name: peft"), std::string::npos);
  EXPECT_EQ(TensorFile::open(folder / "adapter_model.safetensors").metadata().at("format"), "pt");
}

TEST(PeftFormat, TargetsAsStrings) {
  const TempFolder folder;
  const auto written = [&](const LoraConfig& config) {
    write_adapter_folder(folder.path(), config, "", tensors_for(config));
    return json::parse(read_bytes(folder / "adapter_config.json"))["target_modules"];
  };
  EXPECT_EQ(written({.target_modules = R"(.*q_proj)"}), R"(.*q_proj)");
  EXPECT_EQ(written({.target_modules = "all-linear"}), json({"down_proj", "q_proj"}));
}

// A folder whose config and tensors a test then changes.
class Broken : public ::testing::Test {
 protected:
  void write(const json& changes = json::object(), const Tensors& more = {}, const Names& without = {}) {
    json config{{"peft_type", "LORA"}, {"r", 2}, {"lora_alpha", 4}, {"target_modules", {"q_proj"}}};
    config.update(changes);
    folder_.write("adapter_config.json", config.dump());
    Tensors tensors = more;
    for (const std::string& module : kQ)
      for (const auto& [name, tensor] :
           {std::pair{key(module, 'A'), at::ones({2, 6})}, {key(module, 'B'), at::ones({8, 2})}})
        if (std::find(without.begin(), without.end(), name) == without.end()) tensors.emplace_back(name, tensor);
    write_tensor_file(folder_ / "adapter_model.safetensors", tensors);
  }
  void expect(const std::string& text) {
    expect_error<UserError>([&] { match_adapter(read_adapter_folder(folder_.path()), base()); }, text);
  }
  TempFolder folder_;
};

TEST_F(Broken, Good) {
  write();
  EXPECT_EQ(match_adapter(read_adapter_folder(folder_.path()), base()).modules.size(), 2u);
  const auto expect_good = [&](const json& changes) {
    SCOPED_TRACE(changes.dump());
    write(changes);
    EXPECT_EQ(read_adapter_folder(folder_.path()).config.r, 2);
  };
  expect_good({{"runtime_config", {{"x", 1}}},
               {"modules_to_save", nullptr},
               {"layers_to_transform", nullptr},
               {"loftq_config", json::object()},
               {"exclude_modules", nullptr}});
  for (const json& init : {json(true), json(false), json("gaussian"), json("eva"), json("orthogonal")})
    expect_good({{"init_lora_weights", init}});
  // Keys that nobody knows, and say nothing; what PEFT adds to every adapter.
  expect_good(
      {{"a", nullptr}, {"b", false}, {"c", 0}, {"d", ""}, {"e", json::array()}, {"f", json::object()}, {"g", 0.}});
  expect_good({{"auto_mapping", {{"base_model_class", "LlamaForCausalLM"}}},
               {"revision", "main"},
               {"inference_mode", true},
               {"peft_version", "0.21.2"},
               {"task_type", "CAUSAL_LM"},
               {"megatron_core", "megatron.core"},
               {"qalora_group_size", 16},
               {"ensure_weight_tying", false},
               {"eva_config", {{"rho", 2.0}}}});
}

// As PEFT does with names that a family of models has, and with a setting for another kind of layer.
TEST_F(Broken, WhatMeansNothingHereIsPassedOver) {
  write({{"target_modules", {"q_proj", "query_key_value", "c_attn"}},
         {"fan_in_fan_out", true},
         {"rank_pattern", {{"k_proj", 7}}},
         {"layers_to_transform", {0, 1, 77}},
         {"exclude_modules", {"vision"}}});
  const AdapterFolder folder = read_adapter_folder(folder_.path());
  EXPECT_EQ(match_adapter(folder, base()).modules.size(), 2u);
  const std::string config = (folder_ / "adapter_config.json").string();
  EXPECT_EQ(
      notes_on(folder, linears()),
      (Names{config + ": target_modules: [\"c_attn\",\"query_key_value\"] match no linear layer of this model and "
                      "are passed over",
             config + ": fan_in_fan_out: true is passed over: no linear layer of this model is transposed"}));
  write();
  EXPECT_EQ(notes_on(read_adapter_folder(folder_.path()), linears()), Names{});
}

TEST_F(Broken, TheOrderOfTheFileCounts) {
  const auto rank = [&](const std::string& patterns) {
    folder_.write("adapter_config.json",
                  R"({"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "rank_pattern": )" + patterns + "}");
    return ModuleRanks(read_adapter_config(folder_.path()).config).match(linears()[0]).r;
  };
  EXPECT_EQ(rank(R"({"q_proj": 4, "layers.0.self_attn.q_proj": 5})"), 4);
  EXPECT_EQ(rank(R"({"layers.0.self_attn.q_proj": 5, "q_proj": 4})"), 5);
}

TEST_F(Broken, AnAdapterOneLevelDownIsNamed) {
  write();
  const TempFolder outer;
  std::filesystem::create_directory(outer / "empty");
  expect_error<UserError>([&] { read_adapter_folder(outer.path()); }, "adapter_config.json: ");
  for (const char* name : {"medical", "checkpoint-200"}) std::filesystem::copy(folder_.path(), outer / name);
  expect_error<UserError>([&] { read_adapter_folder(outer.path()); },
                          outer.path().string() +
                              ": expected an adapter folder, got one without adapter_config.json; "
                              "there is one in checkpoint-200, medical: give that folder");
}

TEST_F(Broken, HalfPrecisionIsWidened) {
  write({{"target_modules", {"q_proj", "layers.0.mlp.down_proj"}}},
        {{key(kDown[0], 'A'), at::ones({2, 10}, at::kHalf)}, {key(kDown[0], 'B'), at::ones({6, 2}, at::kBFloat16)}});
  const auto read = read_adapter_folder(folder_.path());
  EXPECT_EQ(read.tensors.at(kDown[0]).first.scalar_type(), at::kFloat);
  EXPECT_EQ(match_adapter(read, base()).modules.size(), 3u);
}

TEST_F(Broken, Configs) {
  const std::vector<std::pair<json, std::string>> cases = {
      {{{"peft_type", "IA3"}},
       "adapter_config.json: peft_type: expected \"LORA\" (no other is supported), got \"IA3\""},
      {{{"peft_type", nullptr}}, "peft_type: expected \"LORA\""},
      {{{"use_dora", true}}, "adapter_config.json: use_dora: expected nothing (it is not supported), got true"},
      {{{"modules_to_save", {"lm_head"}}},
       "tensor 'base_model.model.lm_head.weight' is missing, which adapter_config.json says is trained"},
      {{{"modules_to_save", {""}}}, "modules_to_save: expected a list of at most 1000 names, got [\"\"]"},
      {{{"modules_to_save", {"proj"}}},
       "adapter_config.json: modules_to_save: expected none of the adapted modules, got "
       "model.layers.0.self_attn.q_proj"},
      {{{"fan_in_fan_out", 1}}, "fan_in_fan_out: expected true or false, got 1"},
      {{{"unknown_key", 3}}, "adapter_config.json: unknown_key: expected nothing (it is not supported), got 3"},
      {{{"lora_rank", 2}}, "lora_rank: expected nothing"},
      {{{"ensure_weight_tying", true}}, "ensure_weight_tying"},
      {{{"init_lora_weights", "something_new"}}, "init_lora_weights: expected an adapter that was converted"},
      {{{"lora_bias", true}}, "lora_bias"},
      {{{"trainable_token_indices", {1, 2}}}, "trainable_token_indices"},
      {{{"target_parameters", {"x"}}}, "target_parameters"},
      {{{"layer_replication", {{0, 2}}}}, "layer_replication"},
      {{{"megatron_config", {{"x", 1}}}}, "megatron_config"},
      {{{"alora_invocation_tokens", {1}}}, "alora_invocation_tokens"},
      {{{"use_qalora", true}}, "use_qalora"},
      {{{"kasa_config", {{"x", 1}}}}, "kasa_config"},
      {{{"init_lora_weights", "pissa_niter_4"}},
       "init_lora_weights: expected an adapter that was converted to plain LoRA"},
      {{{"layers_pattern", "blocks"}}, "layers_pattern: expected \"layers\""},
      {{{"bias", "all"}}, "q_proj.base_layer.bias' is missing, which adapter_config.json says is trained"},
      {{{"bias", "some"}}, "bias: expected none, lora_only or all, got \"some\""},
      {{{"r", 0}}, "r: expected an integer in [1, 4096], got 0"},
      {{{"r", 2147483648}}, "r: expected"},
      {{{"r", 2.0}}, "r: expected"},
      {{{"r", 3}},
       "adapter_model.safetensors: module 'model.layers.0.self_attn.q_proj': expected rank 3 as in "
       "adapter_config.json, got A [2, 6] and B [8, 2]"},
      {{{"rank_pattern", {{"q_proj", 4}}}}, "expected rank 4"},
      {{{"lora_alpha", -1}}, "lora_alpha: expected a number above 0"},
      {{{"target_modules", 1}}, "target_modules: expected a list of names or a string, got 1"},
      {{{"target_modules", {"v_proj"}}}, "adapter_config.json: target_modules: 'v_proj' matches no linear layer"},
  };
  for (const auto& [changes, text] : cases) {
    SCOPED_TRACE(changes.dump());
    write(changes);
    expect(text);
  }
}

TEST_F(Broken, TensorNames) {
  write(json::object(), {}, {key(kQ[1], 'A')});
  expect("tensor '" + key(kQ[1], 'A') + "' is missing");
  write(json::object(), {}, {key(kQ[1], 'A'), key(kQ[1], 'B')});
  expect("module 'model.layers.1.self_attn.q_proj': expected its tensors, as target_modules names it, got none");
  write(json::object(), {{key(kDown[0], 'A'), at::ones({2, 10})}, {key(kDown[0], 'B'), at::ones({6, 2})}});
  expect("module 'model.layers.0.mlp.down_proj' is not among the target_modules of adapter_config.json");
  write(json::object(), {{key("model.layers.2.self_attn.q_proj", 'A'), at::ones({2, 6})},
                         {key("model.layers.2.self_attn.q_proj", 'B'), at::ones({8, 2})}});
  expect(
      "module 'model.layers.2.self_attn.q_proj' is not in the base model (did you mean "
      "'model.layers.0.self_attn.q_proj'?)");
  for (const char* odd : {"model.layers.0.self_attn.q_proj.lora_A.weight", "base_model.model.lora_A.weight", "x",
                          "base_model.model.x.lora_A.a.b.weight", "base_model.model.x.lora_magnitude_vector",
                          "base_model.model.x.lora_B.bias", "base_model.model.lm_head.modules_to_save.a.b.weight"}) {
    write(json::object(), {{odd, at::ones({2, 2})}});
    expect(std::string("tensor '") + odd + "': expected base_model.model.MODULE.lora_A.weight");
  }
  write(json::object(), {{"base_model.model.lm_head.base_layer.weight", at::ones({20, 6})}});
  expect("tensor 'base_model.model.lm_head.base_layer.weight' belongs to no adapted module");
  write(json::object(), {{"base_model.model." + kQ[0] + ".bias", at::ones({8})}});
  expect("expected 'base_model.model." + kQ[0] + ".base_layer.bias', as the module is adapted");
  write(json::object(), {{"base_model.model.model.nrom.weight", at::ones({6})}});
  expect("tensor 'base_model.model.model.nrom.weight' is none of the base model's (did you mean 'model.norm.weight'?)");
  write({{"target_modules", {"q_proj", "lm_head"}}},
        {{"base_model.model.lm_head.lora_embedding_A", at::ones({2, 6})},
         {"base_model.model.lm_head.lora_embedding_B", at::ones({20, 2})}});
  expect("module 'lm_head': expected 'base_model.model.lm_head.lora_A.weight', got that of an embedding");
}

// As a state dict has them, where PEFT's files have none.
TEST_F(Broken, NamesOfAdaptersInKeys) {
  const auto named = [](const std::string& module, char part, const std::string& name) {
    return "base_model.model." + module + ".lora_" + part + "." + name + ".weight";
  };
  const Names plain{key(kQ[0], 'A'), key(kQ[0], 'B'), key(kQ[1], 'A'), key(kQ[1], 'B')};
  Tensors tensors;
  for (const std::string& module : kQ) {
    tensors.emplace_back(named(module, 'A', "medical"), at::ones({2, 6}));
    tensors.emplace_back(named(module, 'B', "medical"), at::ones({8, 2}));
  }
  write(json::object(), tensors, plain);
  EXPECT_EQ(match_adapter(read_adapter_folder(folder_.path()), base()).modules.size(), 2u);
  tensors.back().first = named(kQ[1], 'B', "default");
  write(json::object(), tensors, plain);
  expect("': expected tensors of one adapter, got '");
  tensors.pop_back();
  write(json::object(), tensors, {plain.begin(), plain.end() - 1});
  expect("': expected tensors of one adapter, got '");
  write({{"modules_to_save", {"lm_head"}}},
        {{"base_model.model.lm_head.modules_to_save.medical.weight", at::ones({20, 6})}});
  expect("': expected tensors of one adapter, got '");
}

TEST_F(Broken, RowsOfAGrownVocabulary) {
  const std::string words =
      ": the adapter brings embeddings of 21 rows, the base has 20: grow the base's vocabulary to 21";
  write(json::object(), {{"base_model.model.model.embed_tokens.weight", at::ones({21, 6})}});
  expect("adapter_model.safetensors: tensor 'base_model.model.model.embed_tokens.weight'" + words);
  write({{"modules_to_save", {"lm_head"}}}, {{"base_model.model.lm_head.weight", at::ones({21, 6})}});
  expect("tensor 'base_model.model.lm_head.weight'" + words);
  write({{"target_modules", {"q_proj", "embed_tokens"}}},
        {{"base_model.model.model.embed_tokens.lora_embedding_A", at::ones({2, 21})},
         {"base_model.model.model.embed_tokens.lora_embedding_B", at::ones({6, 2})}});
  expect("module 'model.embed_tokens'" + words);
  write(json::object(), {{"base_model.model.model.embed_tokens.weight", at::ones({20, 7})}});
  expect("tensor 'base_model.model.model.embed_tokens.weight': expected [20, 6], got [20, 7]");
}

// Names of the tensors that train as a whole, in order.
Names trained(const LoraConfig& config, IdleEntries idle = IdleEntries::kRefused) {
  Names names;
  for (const WholeTensor& tensor : match_tensors(config, match_modules(config, base().modules), base(), idle))
    names.push_back(tensor.name);
  return names;
}

TEST(Match, WholeTensors) {
  const ModuleNames down = StringList{"down_proj"};
  EXPECT_EQ(trained({.target_modules = down}), Names{});
  EXPECT_EQ(trained({.target_modules = down, .modules_to_save = {"lm_head", "norm"}}),
            (Names{"lm_head.weight", "model.layers.0.input_layernorm.weight", "model.norm.weight"}));
  EXPECT_EQ(trained({.target_modules = down, .modules_to_save = {"layers.0.self_attn"}}),
            (Names{kQ[0] + ".weight", kQ[0] + ".bias"}));
  const LoraConfig biases{.target_modules = StringList{"layers.1.self_attn.q_proj"}, .bias = "lora_only"};
  EXPECT_EQ(trained(biases), Names{kQ[1] + ".bias"});
  EXPECT_EQ(match_tensors(biases, match_modules(biases, base().modules), base())[0].key,
            "base_model.model." + kQ[1] + ".base_layer.bias");
  EXPECT_EQ(trained({.target_modules = down, .bias = "all"}), (Names{kQ[0] + ".bias", kQ[1] + ".bias"}));
  // What lies in a saved module is not adapted.
  EXPECT_EQ(matched({.target_modules = "all-linear", .modules_to_save = {"self_attn"}}), kDown);

  const auto expect = [](const LoraConfig& config, const std::string& text) {
    expect_error<UserError>([&] { trained(config); }, text);
  };
  expect({.target_modules = down, .modules_to_save = {"lm_haed"}},
         "modules_to_save: 'lm_haed' is the end of no module's name (did you mean 'lm_head'?)");
  EXPECT_EQ(trained({.target_modules = down, .modules_to_save = {"lm_haed"}}, IdleEntries::kAllowed), Names{});
  expect({.target_modules = down, .bias = "lora_only"},
         "bias: expected none, as no adapted module of this model has a bias, got lora_only");
  expect({.target_modules = down, .bias = "all", .modules_to_save = {"q_proj"}},
         "bias: expected none or lora_only beside modules_to_save");
  expect({.target_modules = down, .modules_to_save = {"_proj"}},
         "modules_to_save: expected none of the adapted modules, got model.layers.0.mlp.down_proj");
}

TEST_F(Broken, TensorValues) {
  const Names without{key(kQ[0], 'A')};
  const auto with = [&](const at::Tensor& a) { write(json::object(), {{key(kQ[0], 'A'), a}}, without); };
  with(at::ones({2, 7}));
  expect("module 'model.layers.0.self_attn.q_proj': expected A [2, 6] and B [8, 2], got [2, 7] and [8, 2]");
  with(at::ones({2}));
  expect("expected a floating-point matrix, got Float [2]");
  with(at::ones({2, 6}, at::kLong));
  expect("expected a floating-point matrix or bias, got Long [2, 6]");
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    at::Tensor a = at::ones({2, 6});
    a[1][3] = bad;
    with(a);
    expect("tensor '" + key(kQ[0], 'A') + "': expected finite numbers, got NaN or infinity");
  }
}

TEST_F(Broken, Folders) {
  expect("adapter_config.json: expected a file, got nothing");
  folder_.write("adapter_config.json", R"({"peft_type": "LORA"})");
  expect("adapter_model.safetensors: expected a file, got nothing");
  folder_.write("adapter_model.bin", "PK\x03\x04");
  expect("expected adapter_model.safetensors, got adapter_model.bin, a pickle");
  write_tensor_file(folder_ / "adapter_model.safetensors", {});
  expect("adapter_model.safetensors: holds no adapter");
  folder_.write("adapter_config.json", "[]");
  expect("adapter_config.json: expected an object, got []");
  expect_error<UserError>([&] { read_adapter_folder(folder_ / "none"); },
                          "none: expected an adapter folder, got nothing");
}

}  // namespace
}  // namespace rankfold
