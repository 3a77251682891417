// Small random model folders of every family: the tensors that model/tensor_list.h lists for a config.json.
#pragma once

#include "io/model_folder.h"
#include "model/architecture.h"
#include "model/model_config.h"
#include "model/tensor_list.h"
#include "rankfold/tensor_file.h"
#include "support/tiny_model.h"

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

namespace rankfold::testing {

struct TinyFamily {
  std::string name;
  nlohmann::json config;  // beside the sizes
};

// What each row of the table can do, at least once. Windows and original lengths are shorter than the rows of tests.
inline std::vector<TinyFamily> tiny_families() {
  using nlohmann::json;
  const json llama3 = {{"rope_type", "llama3"},
                       {"factor", 8},
                       {"low_freq_factor", 1},
                       {"high_freq_factor", 4},
                       {"original_max_position_embeddings", 32}};
  const json yarn = {{"rope_type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 16}};
  return {
      {"LlamaForCausalLM", {{"rope_scaling", llama3}, {"rope_theta", 1000}}},
      {"LlamaForCausalLM", {{"attention_bias", true}, {"mlp_bias", true}, {"rope_scaling", yarn}}},
      {"LlamaForCausalLM",
       {{"max_position_embeddings", 16}, {"rope_scaling", {{"rope_type", "dynamic"}, {"factor", 3}}}}},
      {"MistralForCausalLM", {{"sliding_window", 7}, {"head_dim", 12}}},
      {"Qwen2ForCausalLM",
       {{"use_sliding_window", true}, {"sliding_window", 9}, {"max_window_layers", 1}, {"tie_word_embeddings", true}}},
      {"Qwen3ForCausalLM", {{"head_dim", 12}}},
      {"Phi3ForCausalLM",
       {{"max_position_embeddings", 64},
        {"original_max_position_embeddings", 18},
        {"partial_rotary_factor", 0.8},
        {"sliding_window", 20},
        {"rope_scaling",
         {{"type", "longrope"}, {"short_factor", {1, 1.1, 1.3, 1.7}}, {"long_factor", {1.2, 2, 3, 4}}}}}},
      {"InternLM2ForCausalLM",
       {{"bias", true}, {"max_position_embeddings", 64}, {"rope_scaling", {{"type", "dynamic"}, {"factor", 2}}}}},
      {"GemmaForCausalLM", {{"head_dim", 12}, {"num_key_value_heads", 1}}},
      {"Gemma2ForCausalLM",
       {{"head_dim", 12},
        {"query_pre_attn_scalar", 6},
        {"sliding_window", 7},
        {"attn_logit_softcapping", 5},
        {"final_logit_softcapping", 3}}},
      {"Gemma3ForCausalLM",
       {{"head_dim", 12}, {"query_pre_attn_scalar", 6}, {"sliding_window", 7}, {"sliding_window_pattern", 2}}},
      {"BaiChuanForCausalLM", json::object()},
      {"BaichuanForCausalLM", {{"norm_head", true}, {"position_embedding_type", "rope"}}},
      {"BaichuanForCausalLM", {{"norm_head", false}, {"position_embedding_type", "alibi"}, {"num_attention_heads", 5}}},
      {"BaichuanForCausalLM", {{"norm_head", true}, {"position_embedding_type", "alibi"}}},
  };
}

inline void write_tiny_family(const std::filesystem::path& folder, const TinyFamily& family, int64_t seed = 1) {
  using nlohmann::json;
  constexpr const char* kWeights = "model.safetensors";
  std::filesystem::create_directories(folder);
  json config = {{"architectures", {family.name}}, {"vocab_size", kVocabulary}, {"hidden_size", 40},
                 {"intermediate_size", 56},        {"num_hidden_layers", 2},    {"num_attention_heads", 4},
                 {"rms_norm_eps", 1e-6},           {"eos_token_id", 2},         {"torch_dtype", "float32"}};
  if (!find_architecture(family.name).is_baichuan) config["num_key_value_heads"] = 2;
  config.update(family.config);
  std::ofstream(folder / "config.json") << config.dump();
  write_tensor_file(folder / kWeights, {{"none", at::zeros({1})}});  // a folder must have some
  at::manual_seed(seed);
  std::vector<std::pair<std::string, at::Tensor>> weights;
  for (const TensorSpec& tensor : tensor_list(read_model_config(ModelFolder::open(folder)))) {
    const bool is_norm = tensor.shape.size() == 1 && !tensor.is_bias();
    const double mean = is_norm && !find_architecture(family.name).has_offset_norms ? 1 : 0;
    weights.emplace_back(tensor.name, at::randn(tensor.shape) * (is_norm ? 0.1 : 0.15) + mean);
  }
  write_tensor_file(folder / kWeights, weights);
}

}  // namespace rankfold::testing
