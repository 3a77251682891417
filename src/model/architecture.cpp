#include "model/architecture.h"

#include "core/check.h"

#include <algorithm>
#include <utility>

namespace rankfold {
namespace {

// What all of Gemma has, and what came with its windows.
Architecture gemma(Architecture row) {
  row.has_offset_norms = row.has_gelu = row.scales_embedding = row.is_tied_by_default = true;
  row.default_head_dim = 256;
  return row;
}
Architecture windowed_gemma(Architecture row) {
  row.mlp_norm = "pre_feedforward_layernorm";
  row.attention_out_norm = "post_attention_layernorm", row.mlp_out_norm = "post_feedforward_layernorm";
  row.default_score_scalar = 256;
  row.windows = WindowedLayers::by_pattern;
  return gemma(std::move(row));
}

const std::vector<Architecture>& architectures() {
  static const std::vector<Architecture> rows{
      {.name = "LlamaForCausalLM",
       .model_type = "llama",
       .qkv_bias = HasBias::by_key,
       .o_bias = HasBias::by_key,
       .mlp_bias = HasBias::by_key},
      {.name = "MistralForCausalLM", .model_type = "mistral", .windows = WindowedLayers::all_layers},
      {.name = "Qwen2ForCausalLM",
       .model_type = "qwen2",
       .qkv_bias = HasBias::always,
       .windows = WindowedLayers::by_layer,
       .bos_by_default = false},
      {.name = "Qwen3ForCausalLM",
       .model_type = "qwen3",
       .qkv_bias = HasBias::by_key,
       .o_bias = HasBias::by_key,
       .has_qk_norm = true,
       .windows = WindowedLayers::by_layer,
       .bos_by_default = false},
      {.name = "Phi3ForCausalLM",
       .model_type = "phi3",
       .qkv = {"self_attn.qkv_proj"},
       .gate_up = {"mlp.gate_up_proj"},
       .windows = WindowedLayers::all_layers,
       .default_window = 0,
       .has_partial_rotary = true},
      gemma({.name = "GemmaForCausalLM", .model_type = "gemma"}),
      windowed_gemma({.name = "Gemma2ForCausalLM",
                      .model_type = "gemma2",
                      .default_attention_cap = 50,
                      .default_head_cap = 30,
                      .window_pattern = 2}),
      windowed_gemma({.name = "Gemma3ForCausalLM",
                      .model_type = "gemma3_text",
                      .has_qk_norm = true,
                      .default_head_cap = 0,
                      .window_pattern = 6,
                      .has_local_rope = true}),
      {.name = "InternLM2ForCausalLM",
       .model_type = "internlm2",
       .embedding = "model.tok_embeddings",
       .head = "output",
       .input_norm = "attention_norm",
       .mlp_norm = "ffn_norm",
       .qkv = {"attention.wqkv"},
       .gate_up = {"feed_forward.w1", "feed_forward.w3"},
       .o = "attention.wo",
       .down = "feed_forward.w2",
       .groups_qkv = true,
       .qkv_bias = HasBias::by_key,
       .o_bias = HasBias::by_key,
       .attention_bias_key = "bias",
       .has_own_code = true},
      {.name = "BaiChuanForCausalLM",
       .model_type = "baichuan",
       .qkv = {"self_attn.W_pack"},
       .is_baichuan = true,
       .bos_by_default = false,
       .has_own_code = true},
      {.name = "BaichuanForCausalLM",
       .model_type = "baichuan",
       .qkv = {"self_attn.W_pack"},
       .is_baichuan = true,
       .bos_by_default = false,
       .has_own_code = true},
  };
  return rows;
}

// Classes that people bring and what they would need; empty: nothing is known of it.
std::string need_of(const std::string& name) {
  constexpr std::pair<const char*, const char*> kNeeds[] = {
      {"Moe", "a mixture of experts"},
      {"MoE", "a mixture of experts"},
      {"DeepseekFor", "a mixture of experts"},
      {"Mixtral", "a mixture of experts"},
      {"DeepseekV", "a mixture of experts and latent attention"},
      {"GptOss", "a mixture of experts"},
      {"Llama4", "a mixture of experts"},
      {"ConditionalGeneration", "a tower for pictures or sound beside the language model"},
      {"VL", "a tower for pictures beside the language model"},
      {"Vision", "a tower for pictures beside the language model"},
      {"Gemma3n", "embeddings for each layer and layers that share keys"},
      {"Phi4MM", "a tower for pictures and sound beside the language model"},
      {"Phi3V", "a tower for pictures beside the language model"},
      {"Llava", "a tower for pictures beside the language model"},
      {"Mamba", "state spaces"},
      {"ChatGLM", "its own packing of queries, keys and values, and rotary pairs that lie side by side"},
      {"GPT2", "learnt positions and layer norms with a mean"},
      {"Falcon", "layer norms with a mean and an MLP without a gate"},
      {"PhiForCausalLM", "layer norms with a mean and an MLP without a gate"},
      {"SequenceClassification", "a head for classes; these models predict tokens"},
  };
  for (const auto& [part, need] : kNeeds)
    if (name.find(part) != std::string::npos) return join(", which needs ", need);
  return {};
}

}  // namespace

std::vector<std::string> architecture_names() {
  std::vector<std::string> names;
  for (const Architecture& row : architectures()) names.push_back(row.name);
  return names;
}

bool is_head_name(const std::string& module) {
  const std::vector<Architecture>& rows = architectures();
  return std::any_of(rows.begin(), rows.end(), [&](const Architecture& row) { return row.head == module; });
}

const Architecture& find_architecture(const std::string& name, const std::string& source) {
  std::string names;
  for (const Architecture& row : architectures()) {
    if (name == row.name) return row;
    names += join(names.empty() ? "" : ", ", row.name);
  }
  fail(source, ": architectures: expected a class that is supported, got ", name, need_of(name), "; supported are ",
       names);
}

std::string architecture_of_type(const std::string& model_type) {
  std::string found;
  for (const Architecture& row : architectures())
    if (model_type == row.model_type) {
      if (!found.empty()) return {};
      found = row.name;
    }
  return found;
}

}  // namespace rankfold
