#include "model/model_config.h"

#include "core/json.h"
#include "model/architecture.h"
#include "rankfold/error.h"
#include "support/temp_folder.h"

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include <functional>

namespace rankfold {
namespace {

using nlohmann::json;
using testing::expect_error;
using testing::TempFolder;

json llama() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"vocab_size", 32000},
          {"hidden_size", 4096},
          {"intermediate_size", 11008},
          {"num_hidden_layers", 32},
          {"num_attention_heads", 32},
          {"torch_dtype", "float16"}};
}

// llama() with these keys laid over it.
ModelConfig read(const json& changes, const json& generation = nullptr) {
  static const TempFolder folder;
  json config = llama();
  config.merge_patch(changes);
  for (const auto& [key, value] : changes.items())
    if (value.is_null()) config[key] = nullptr;  // a merge patch removes what is null
  folder.write("config.json", config.dump());
  std::filesystem::remove(folder / "generation_config.json");
  if (!generation.is_null()) folder.write("generation_config.json", generation.dump());
  write_tensor_file(folder / kWeightsName, {{"i", at::ones({1}, at::kLong)}, {"x", at::ones({1}, at::kBFloat16)}});
  return read_model_config(ModelFolder::open(folder.path()));
}

void expect_refused(const json& changes, const std::string& text) {
  SCOPED_TRACE(changes.dump());
  expect_error<UserError>([&] { read(changes); }, "config.json: " + text);
}

TEST(ModelConfig, Defaults) {
  const ModelConfig config = read(json::object());
  EXPECT_EQ(config.architecture, "LlamaForCausalLM");
  EXPECT_EQ(config.model_type, "llama");
  EXPECT_EQ(config.num_key_value_heads, 32);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_EQ(config.max_position_embeddings, 0);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  EXPECT_EQ(config.rope.theta, 10000);
  EXPECT_EQ(config.rope.factor, 1);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_TRUE(config.eos_token_ids.empty());
  EXPECT_EQ(config.stored_dtype, at::kHalf);
}

TEST(ModelConfig, BothSpellings) {
  EXPECT_EQ(read({{"dtype", "bfloat16"}, {"torch_dtype", nullptr}}).stored_dtype, at::kBFloat16);
  EXPECT_EQ(read({{"torch_dtype", nullptr}}).stored_dtype, at::kBFloat16);  // from the weights
  EXPECT_EQ(read({{"rope_theta", 5e5}}).rope.theta, 5e5);
  EXPECT_EQ(read({{"rope_parameters", {{"rope_theta", 1000000}, {"rope_type", "default"}}}}).rope.theta, 1e6);
  for (const char* type : {"type", "rope_type"})
    for (const char* key : {"rope_scaling", "rope_parameters"}) {
      const ModelConfig config = read({{"rope_theta", 2e4}, {key, {{type, "linear"}, {"factor", 4}}}});
      EXPECT_EQ(config.rope.factor, 4);
      EXPECT_EQ(config.rope.theta, 2e4);
    }
  EXPECT_EQ(read({{"rope_scaling", nullptr}}).rope.factor, 1);
  EXPECT_EQ(read({{"rope_scaling", json::object()}, {"rope_parameters", {{"rope_theta", 7e4}}}}).rope.theta, 7e4);
  EXPECT_EQ(read({{"model_max_length", 4096}}).max_position_embeddings, 4096);
  EXPECT_EQ(read({{"max_position_embeddings", 2048}, {"model_max_length", 4096}}).max_position_embeddings, 2048);
}

TEST(ModelConfig, Eos) {
  using Ids = std::vector<int64_t>;
  EXPECT_EQ(read({{"eos_token_id", 2}}).eos_token_ids, Ids{2});
  EXPECT_EQ(read({{"eos_token_id", {2, 7}}}).eos_token_ids, (Ids{2, 7}));
  EXPECT_EQ(read({{"eos_token_id", nullptr}}).eos_token_ids, Ids{});
  EXPECT_EQ(read({{"eos_token_id", 2}}, {{"eos_token_id", {3}}}).eos_token_ids, Ids{3});
  EXPECT_EQ(read({{"eos_token_id", 2}}, {{"eos_token_id", nullptr}}).eos_token_ids, Ids{2});
  expect_error<UserError>(
      [] {
        read(json::object(), {{"eos_token_id", "x"}});
      },
      "generation_config.json: eos_token_id: expected a token id");
}

TEST(ModelConfig, GroupedHeads) {
  EXPECT_EQ(read({{"num_key_value_heads", 8}}).num_key_value_heads, 8);
  EXPECT_EQ(read({{"head_dim", 64}}).head_dim, 64);
}

TEST(ModelConfig, Baichuan) {
  const ModelConfig config = read({{"architectures", {"BaiChuanForCausalLM"}}, {"hidden_size", 64}});
  EXPECT_EQ(find_architecture(config.architecture).qkv, std::vector<std::string>{"self_attn.W_pack"});
  EXPECT_FALSE(find_architecture(config.architecture).bos_by_default);
  EXPECT_TRUE(find_architecture("LlamaForCausalLM").bos_by_default);
  const json newer = {{"architectures", {"BaichuanForCausalLM"}}};
  const auto with = [&](const char* key, const json& value) {
    json changes = newer;
    changes[key] = value;
    return changes;
  };
  // Whatever the vocabulary, which users extend: hidden size 4096 is Baichuan2-7B.
  for (const int64_t vocabulary : {125696, 125700, 64000, 512}) {
    const ModelConfig second = read(with("vocab_size", vocabulary));
    EXPECT_TRUE(second.has_norm_head && !second.uses_alibi) << vocabulary;
  }
  EXPECT_FALSE(read(with("norm_head", false)).has_norm_head);
  // The 13B models differ by their vocabulary, or by the key.
  json large = with("hidden_size", 5120);
  for (const auto& [vocabulary, has_norm_head] : {std::pair{64000, false}, {125696, true}}) {
    large["vocab_size"] = vocabulary;
    const ModelConfig found = read(large);
    EXPECT_TRUE(found.uses_alibi && found.has_norm_head == has_norm_head) << vocabulary;
  }
  large["vocab_size"] = 64010;
  expect_refused(large,
                 "architectures: BaichuanForCausalLM with hidden_size 5120 and vocab_size 64010 may be Baichuan-13B or "
                 "Baichuan2-13B: say \"norm_head\": false for the first, true for the second");
  large["norm_head"] = false, large["position_embedding_type"] = "rope";
  EXPECT_FALSE(read(large).has_norm_head || read(large).uses_alibi);
  json first = {{"architectures", {"BaiChuanForCausalLM"}}};
  EXPECT_FALSE(read(first).has_norm_head || read(first).uses_alibi);
  first["norm_head"] = true, first["position_embedding_type"] = "alibi";
  EXPECT_TRUE(read(first).has_norm_head && read(first).uses_alibi);
  first["position_embedding_type"] = "nope";
  expect_refused(first, "position_embedding_type: expected rope or alibi, got \"nope\"");
  first.erase("position_embedding_type");
  first["num_key_value_heads"] = 8;
  expect_refused(first, "num_key_value_heads: expected 32, as self_attn.W_pack needs, got 8");
}

TEST(ModelConfig, RopeTypes) {
  const RopeParameters llama3 = read({{"max_position_embeddings", 131072},
                                      {"rope_theta", 5e5},
                                      {"rope_scaling",
                                       {{"rope_type", "llama3"},
                                        {"factor", 8.0},
                                        {"low_freq_factor", 1.0},
                                        {"high_freq_factor", 4.0},
                                        {"original_max_position_embeddings", 8192}}}})
                                    .rope;
  EXPECT_EQ(llama3.type, RopeType::llama3);
  EXPECT_EQ(llama3.factor, 8);
  EXPECT_EQ(llama3.original_max_position_embeddings, 8192);
  const RopeParameters yarn =
      read({{"rope_scaling",
             {{"type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 32768}, {"beta_slow", 2}}}})
          .rope;
  EXPECT_EQ(yarn.type, RopeType::yarn);
  EXPECT_EQ(yarn.beta_fast, 32);
  EXPECT_EQ(yarn.beta_slow, 2);
  const ModelConfig dynamic =
      read({{"max_position_embeddings", 64}, {"rope_scaling", {{"type", "dynamic"}, {"factor", 2}, {"alpha", 1}}}});
  EXPECT_EQ(dynamic.rope.original_max_position_embeddings, 64);
  EXPECT_TRUE(dynamic.notes.at(0).ends_with("config.json: rope_scaling: not used: alpha")) << dynamic.notes.at(0);
}

TEST(ModelConfig, BiasesAndNormsOfHeads) {
  const ModelConfig plain = read(json::object());
  EXPECT_FALSE(plain.qkv_bias || plain.o_bias || plain.mlp_bias || plain.has_qk_norm);
  const ModelConfig llama = read({{"attention_bias", true}, {"mlp_bias", true}});
  EXPECT_TRUE(llama.qkv_bias && llama.o_bias && llama.mlp_bias);
  const ModelConfig qwen2 = read({{"architectures", {"Qwen2ForCausalLM"}}});
  EXPECT_TRUE(qwen2.qkv_bias && !qwen2.o_bias && !qwen2.mlp_bias && !qwen2.has_qk_norm);
  EXPECT_TRUE(read({{"architectures", {"Qwen3ForCausalLM"}}}).has_qk_norm);
}

TEST(ModelConfig, Windows) {
  using Windows = std::vector<int64_t>;
  const auto windows = [](const char* name, const json& changes) {
    json all = {{"architectures", {name}}, {"num_hidden_layers", 3}};
    all.update(changes);
    return read(all).windows;
  };
  EXPECT_EQ(windows("MistralForCausalLM", json::object()), Windows(3, 4096));  // as its class has it
  EXPECT_EQ(windows("MistralForCausalLM", {{"sliding_window", nullptr}}), Windows{});
  EXPECT_EQ(windows("MistralForCausalLM", {{"sliding_window", 7}}), Windows(3, 7));
  for (const char* name : {"Qwen2ForCausalLM", "Qwen3ForCausalLM"}) {
    EXPECT_EQ(windows(name, {{"sliding_window", 7}, {"max_window_layers", 1}}), Windows{});
    const json used = {{"sliding_window", 7}, {"use_sliding_window", true}, {"max_window_layers", 1}};
    EXPECT_EQ(windows(name, used), (Windows{0, 7, 7}));
    json by_type = used;
    by_type["layer_types"] = {"sliding_attention", "full_attention", "full_attention"};
    EXPECT_EQ(windows(name, by_type), (Windows{7, 0, 0}));
    by_type["use_sliding_window"] = false;
    EXPECT_THROW(windows(name, by_type), UserError);
    by_type["layer_types"] = {"sliding_attention"};
    EXPECT_THROW(windows(name, by_type), UserError);
  }
}

TEST(ModelConfig, Gemma) {
  const json small = {{"hidden_size", 640}, {"num_attention_heads", 7}, {"num_hidden_layers", 7}};
  const auto read_as = [&](const char* name, const json& changes = json::object()) {
    json all = small;
    all["architectures"] = {name};
    all.update(changes);
    return read(all);
  };
  const ModelConfig first = read_as("GemmaForCausalLM");
  EXPECT_EQ(first.head_dim, 256);  // of the class, not 640 / 7
  EXPECT_TRUE(first.tie_word_embeddings);
  EXPECT_EQ(first.query_pre_attn_scalar, 0);
  EXPECT_TRUE(first.windows.empty());
  EXPECT_TRUE(first.notes.empty());
  const ModelConfig oldest = read_as("GemmaForCausalLM", {{"hidden_act", "gelu"}, {"hidden_activation", nullptr}});
  EXPECT_TRUE(testing::contains(oldest.notes.at(0), "gelu is computed in its tanh form")) << oldest.notes.at(0);
  const ModelConfig second = read_as("Gemma2ForCausalLM", {{"query_pre_attn_scalar", 224},
                                                           {"hidden_act", "gelu_pytorch_tanh"},
                                                           {"hidden_activation", "gelu_pytorch_tanh"}});
  EXPECT_TRUE(second.notes.empty()) << second.notes.at(0);
  EXPECT_EQ(second.query_pre_attn_scalar, 224);
  EXPECT_EQ(second.attn_logit_softcapping, 50);
  EXPECT_EQ(second.final_logit_softcapping, 30);
  EXPECT_EQ(second.windows, (std::vector<int64_t>{4096, 0, 4096, 0, 4096, 0, 4096}));
  EXPECT_EQ(read_as("Gemma2ForCausalLM", {{"final_logit_softcapping", nullptr}}).final_logit_softcapping, 0);
  const json hub = {{"rope_theta", 1e6},
                    {"rope_local_base_freq", 1e4},
                    {"rope_scaling", {{"rope_type", "linear"}, {"factor", 8}}},
                    {"sliding_window", 512},
                    {"sliding_window_pattern", 6},
                    {"attn_logit_softcapping", nullptr},
                    {"final_logit_softcapping", nullptr},
                    {"hidden_activation", "gelu_pytorch_tanh"},
                    {"cache_implementation", "hybrid"}};
  const ModelConfig third = read_as("Gemma3ForCausalLM", hub);
  EXPECT_TRUE(third.has_qk_norm && third.local_rope);
  EXPECT_EQ(third.rope.theta, 1e6);
  EXPECT_EQ(third.rope.factor, 8);
  EXPECT_EQ(third.local_rope->theta, 1e4);
  EXPECT_EQ(third.local_rope->type, RopeType::standard);
  EXPECT_EQ(third.windows, (std::vector<int64_t>{512, 512, 512, 512, 512, 0, 512}));
  EXPECT_EQ(third.final_logit_softcapping, 0);
  EXPECT_TRUE(third.notes.empty()) << third.notes.at(0);
}

TEST(ModelConfig, NamesOfTheClass) {
  const json names[] = {nullptr, json::array(), "LlamaForCausalLM", "LLaMAForCausalLM", {"LLaMAForCausalLM"}};
  for (const json& name : names) EXPECT_EQ(read({{"architectures", name}}).architecture, "LlamaForCausalLM") << name;
  expect_refused(
      {{"architectures", nullptr}, {"model_type", "baichuan"}},
      "architectures: expected the name of the model's class, as model_type \"baichuan\" does not decide it");
  expect_refused({{"architectures", nullptr}, {"model_type", nullptr}},
                 "architectures: expected the name of the model's class, as model_type is not given either, got null");
  EXPECT_EQ(read({{"hidden_act", "swish"}}).architecture, "LlamaForCausalLM");
}

TEST(ModelConfig, KeysThatNothingReadsAreNamedOnce) {
  EXPECT_TRUE(
      read({{"use_cache", true}, {"transformers_version", "4.31.0"}, {"initializer_range", 0.02}}).notes.empty());
  // config.json as the hub has them: nothing to name.
  EXPECT_TRUE(read({{"_name_or_path", "meta-llama/Llama-2-7b-hf"},
                    {"bos_token_id", 1},
                    {"eos_token_id", 2},
                    {"max_position_embeddings", 4096},
                    {"model_type", "llama"},
                    {"pretraining_tp", 1},
                    {"rope_scaling", nullptr},
                    {"tie_word_embeddings", false},
                    {"dtype", "float16"},
                    {"rope_parameters", {{"rope_theta", 1e4}, {"rope_type", "default"}}},
                    {"mlp_bias", false},
                    {"attention_bias", false},
                    {"attention_dropout", 0.0},
                    {"head_dim", 128},
                    {"hidden_act", "silu"}})
                  .notes.empty());
  EXPECT_TRUE(read({{"architectures", {"BaiChuanForCausalLM"}},
                    {"_from_model_config", true},
                    {"model_max_length", 4096},
                    {"auto_map", json::object()},
                    {"pad_token_id", 0},
                    {"z_loss_weight", 0},
                    {"use_cache", true}})
                  .notes.empty());
  EXPECT_TRUE(read({{"norm_head", true}}).notes.at(0).ends_with("not used: norm_head"));  // of another family
  // Baichuan's class computes its positions by itself.
  const ModelConfig fixed = read({{"architectures", {"BaiChuanForCausalLM"}},
                                  {"rope_theta", 5e5},
                                  {"rope_scaling", {{"type", "linear"}, {"factor", 4}}},
                                  {"head_dim", 64}});
  EXPECT_EQ(fixed.rope.theta, 10000);
  EXPECT_EQ(fixed.rope.factor, 1);
  EXPECT_EQ(fixed.head_dim, 128);
  EXPECT_TRUE(fixed.notes.at(0).ends_with("not used: head_dim, rope_scaling, rope_theta")) << fixed.notes.at(0);
  json many;
  for (int i = 0; i < 15; ++i) many["unknown_" + std::string(1, static_cast<char>('a' + i))] = i;
  EXPECT_TRUE(read(many).notes.at(0).ends_with("unknown_l and 3 more"));
  const auto notes = read({{"flux_capacitor", 1}, {"sliding_window", 4096}, {"left_out", nullptr}}).notes;
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_TRUE(notes[0].ends_with("config.json: not used: flux_capacitor, sliding_window")) << notes[0];
}

TEST(ModelConfig, Refusals) {
  const std::vector<std::pair<json, std::string>> cases = {
      {{{"architectures", {"GPT2LMHeadModel"}}},
       "architectures: expected a class that is supported, got GPT2LMHeadModel, which needs learnt positions and layer "
       "norms with a mean; supported are LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, "},
      {{{"architectures", {"MixtralForCausalLM"}}},
       "architectures: expected a class that is supported, got MixtralForCausalLM, which needs a mixture of experts; "},
      {{{"architectures", {"Gemma3ForConditionalGeneration"}}},
       "architectures: expected a class that is supported, got Gemma3ForConditionalGeneration, which needs a tower for "
       "pictures or sound beside the language model; "},
      {{{"architectures", 7}}, "architectures: expected a list with the name of the model's class, got 7"},
      {{{"architectures", {1}}}, "architectures: expected a list"},
      {{{"architectures", {"PeftModelForCausalLM"}}},
       "architectures: expected a class that is supported, got PeftModelForCausalLM; supported are LlamaForCausalLM"},
      {{{"architectures", {"GemmaForCausalLM"}}, {"hidden_act", "relu"}},
       "hidden_act: expected \"gelu_pytorch_tanh\" (no other is supported), got \"relu\""},
      {{{"architectures", {"Gemma2ForCausalLM"}}, {"hidden_activation", "silu"}},
       "hidden_activation: expected \"gelu_pytorch_tanh\" (no other is supported), got \"silu\""},
      {{{"architectures", {"Gemma2ForCausalLM"}}, {"attn_logit_softcapping", -1}},
       "attn_logit_softcapping: expected a number above 0, got -1"},
      {{{"architectures", {"Gemma3ForCausalLM"}}, {"use_bidirectional_attention", true}},
       "use_bidirectional_attention: expected false (no other is supported), got true"},
      {{{"architectures", {"Gemma3ForCausalLM"}}, {"rope_parameters", {{"rope_theta", 1e6}}}},
       "rope_parameters: expected an object in each of full_attention and sliding_attention alone, got"},
      {{{"architectures", {"Gemma3ForCausalLM"}}, {"rope_parameters", {{"sliding_attention", {{"rope_theta", 0}}}}}},
       "rope_parameters: sliding_attention: rope_theta: expected a number above 0, got 0"},
      {{{"is_causal", false}}, "is_causal: expected true (no other is supported), got false"},
      {{{"attention_dropout", 0.1}}, "attention_dropout: expected 0 (no other is supported), got 0.1"},
      {{{"vocab_size", int64_t{1} << 31}}, "vocab_size: expected an integer in [1, 2147483647], got 2147483648"},
      {{{"vocab_size", 0}}, "vocab_size: expected"},
      {{{"vocab_size", 16.7}}, "vocab_size: expected an integer in [1, 2147483647], got 16.7"},
      {{{"vocab_size", 16.0}}, "vocab_size: expected"},
      {{{"vocab_size", true}}, "vocab_size: expected"},
      {{{"vocab_size", "32000"}}, "vocab_size: expected an integer in [1, 2147483647], got \"32000\""},
      {{{"vocab_size", 18446744073709551615u}}, "vocab_size: expected"},
      {{{"hidden_size", nullptr}}, "hidden_size: expected an integer in [1, 1048576], got null"},
      {{{"hidden_size", -4096}}, "hidden_size: expected"},
      {{{"intermediate_size", 0}}, "intermediate_size: expected"},
      {{{"num_hidden_layers", 1000000000}}, "num_hidden_layers: expected an integer in [1, 1000], got 1000000000"},
      {{{"num_hidden_layers", 0}}, "num_hidden_layers: expected"},
      {{{"num_attention_heads", 0}}, "num_attention_heads: expected"},
      {{{"num_attention_heads", 3}}, "num_attention_heads: expected a divisor of hidden_size 4096, got 3"},
      {{{"num_attention_heads", 4096}}, "num_attention_heads: expected heads of an even size (here 1), got 4096"},
      {{{"num_key_value_heads", 64}}, "num_key_value_heads: expected an integer in [1, 32], got 64"},
      {{{"num_key_value_heads", 5}}, "num_key_value_heads: expected a divisor of num_attention_heads 32, got 5"},
      {{{"head_dim", 0}}, "head_dim: expected"},
      {{{"head_dim", 33}}, "head_dim: expected heads of an even size (here 33), got 33"},
      {{{"max_position_embeddings", -1}}, "max_position_embeddings: expected"},
      {{{"rms_norm_eps", 0}}, "rms_norm_eps: expected a number in (0, 1), got 0"},
      {{{"rms_norm_eps", "1e-6"}}, "rms_norm_eps: expected a number in (0, 1), got \"1e-6\""},
      {{{"rope_theta", -1}}, "rope_theta: expected a number above 0, got -1"},
      {{{"rope_scaling", "linear"}}, "rope_scaling: expected an object, got \"linear\""},
      {{{"rope_scaling", {{"type", "ntk"}, {"factor", 2}}}},
       "rope_scaling: type: expected default, linear, dynamic, yarn, llama3 or longrope (no other is supported), got "
       "\"ntk\""},
      {{{"rope_scaling", {{"type", "dynamic"}, {"factor", 2}}}},
       "max_position_embeddings: expected an integer above 0, got nothing"},
      {{{"rope_parameters", {{"rope_type", "llama3"}, {"factor", 8}, {"original_max_position_embeddings", 64}}}},
       "rope_parameters: low_freq_factor: expected a number above 0, got nothing"},
      {{{"rope_parameters",
         {{"rope_type", "llama3"},
          {"original_max_position_embeddings", 64},
          {"factor", 8},
          {"low_freq_factor", 4},
          {"high_freq_factor", 1}}}},
       "rope_parameters: high_freq_factor: expected a number above low_freq_factor 4, got 1"},
      {{{"rope_parameters", {{"rope_type", "yarn"}, {"factor", 8}}}},
       "rope_parameters: original_max_position_embeddings: expected an integer above 1, got nothing"},
      {{{"max_position_embeddings", 64},
        {"rope_parameters", {{"rope_type", "longrope"}, {"short_factor", {1, 2}}, {"long_factor", {1}}}}},
       "rope_parameters: short_factor: expected a list of 64 numbers above 0"},
      {{{"rope_parameters", {{"full_attention", {{"rope_theta", 1}}}}}},
       "rope_parameters: full_attention: expected one"},
      {{{"rope_scaling", {{"type", "linear"}}}}, "rope_scaling: factor: expected a number of 1 or more, got nothing"},
      {{{"rope_scaling", {{"type", "linear"}, {"factor", 0.5}}}},
       "rope_scaling: factor: expected a number of 1 or more"},
      {{{"partial_rotary_factor", 0.5}}, "partial_rotary_factor: expected 1"},
      {{{"tie_word_embeddings", 1}}, "tie_word_embeddings: expected true or false, got 1"},
      {{{"eos_token_id", "x"}}, "eos_token_id: expected a token id or a list of token ids, got \"x\""},
      {{{"eos_token_id", -1}}, "eos_token_id: expected"},
      {{{"eos_token_id", {1, 2.5}}}, "eos_token_id: expected"},
      {{{"torch_dtype", "float8"}}, "torch_dtype: expected float32, bfloat16 or float16, got \"float8\""},
      {{{"dtype", 16}}, "dtype: expected"},
      {{{"hidden_act", "gelu"}}, "hidden_act: expected \"silu\" (no other is supported), got \"gelu\""},
      {{{"attention_bias", 1}}, "attention_bias: expected true or false, got 1"},
  };
  for (const auto& [changes, text] : cases) expect_refused(changes, text);
}

TEST(ModelConfig, NotANumberIsNotJson) {
  const TempFolder folder;
  folder.write("config.json", "{\"rms_norm_eps\": NaN}");
  write_tensor_file(folder / kWeightsName, {{"x", at::ones({1})}});
  expect_error<UserError>([&] { ModelFolder::open(folder.path()); }, "config.json:1:");
}

}  // namespace
}  // namespace rankfold
