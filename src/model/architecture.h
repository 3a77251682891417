// The differences between the supported model families. To add a family, add a row in architecture.cpp.
#pragma once

#include "rankfold/causal_lm.h"

#include <optional>
#include <string>
#include <vector>

namespace rankfold {

// Whether linear layers have a bias.
enum class HasBias { never, always, by_key };

// Which layers have an attention window.
enum class WindowedLayers {
  none,
  all_layers,  // sliding_window, null for none
  by_layer,    // use_sliding_window with layer_types or max_window_layers
  by_pattern,  // layer_types, or all layers but every window_pattern-th
};

// Names that most families use.
inline constexpr const char *kUsualEmbedding = "model.embed_tokens", *kUsualHead = "lm_head";

// One family. Names are those of tensors in the folder's files, without ".weight"; those of a layer follow
// layers + number. Defaults are those of LLaMA.
struct Architecture {
  std::string name;        // architectures[0] in config.json
  std::string model_type;  // as transformers names the family
  std::string embedding = kUsualEmbedding, layers = "model.layers.", norm = "model.norm", head = kUsualHead;
  std::string input_norm = "input_layernorm", mlp_norm = "post_attention_layernorm";
  // Norms of the outputs of attention and MLP, before the residual sum; empty: none.
  std::string attention_out_norm = {}, mlp_out_norm = {};
  std::string q_norm = "self_attn.q_norm", k_norm = "self_attn.k_norm";  // where has_qk_norm
  // Modules that read one input and form one projection, in the order of its rows: queries, keys, values; gate, up.
  std::vector<std::string> qkv = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"};
  std::vector<std::string> gate_up = {"mlp.gate_proj", "mlp.up_proj"};
  std::string o = "self_attn.o_proj", down = "mlp.down_proj";
  bool groups_qkv = false;                                     // AttentionSpec::is_grouped
  HasBias qkv_bias = HasBias::never, o_bias = HasBias::never;  // by the key of attention_bias_key
  std::string attention_bias_key = "attention_bias";
  HasBias mlp_bias = HasBias::never;  // by mlp_bias
  bool has_qk_norm = false;
  bool has_offset_norms = false;  // gains are 1 + weight
  bool has_gelu = false;          // of the gate, in its tanh form; SiLU otherwise
  bool scales_embedding = false;  // by the root of hidden_size
  bool is_tied_by_default = false;
  int64_t default_head_dim = 0;  // where config.json has none; 0: hidden_size / heads
  // Values for keys that are absent from config.json; 0: none. Unset: the family has no such key.
  std::optional<double> default_score_scalar = {};   // query_pre_attn_scalar
  std::optional<double> default_attention_cap = {};  // attn_logit_softcapping
  std::optional<double> default_head_cap = {};       // final_logit_softcapping
  WindowedLayers windows = WindowedLayers::none;
  int64_t default_window = 4096;    // where sliding_window is absent from config.json; 0: none
  int64_t window_pattern = 0;       // by_pattern: every layer but each window_pattern-th has a window
  bool has_local_rope = false;      // layers with a window have rotary settings of their own
  bool has_partial_rotary = false;  // partial_rotary_factor, and longrope under the name "yarn" (Phi-3)
  // config.json has neither head_dim nor rotary settings nor fewer key/value heads; its models are told apart by
  // position_embedding_type and norm_head, or by their sizes.
  bool is_baichuan = false;
  bool bos_by_default = true;  // whether the tokenizer adds bos if the folder does not say
  bool has_own_code = false;   // transformers (5.17) has no class: it runs the folder's .py files, where it is told to
};

std::vector<std::string> architecture_names();

bool is_head_name(const std::string& module);  // of any family

// The family with this name. Throws UserError "SOURCE: architectures: ..." for another name. It lists the supported
// names, and for some well-known classes it says what is missing.
const Architecture& find_architecture(const std::string& name, const std::string& source = "config.json");

// The architecture name for a model_type, for a config.json without "architectures"; empty if the type is ambiguous.
std::string architecture_of_type(const std::string& model_type);

}  // namespace rankfold
