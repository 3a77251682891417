// What differs between the model families that we know; adding one is a row in architecture.cpp.
#pragma once

#include "rankfold/causal_lm.h"

#include <optional>
#include <string>
#include <vector>

namespace rankfold {

// Whether linear layers have a bias.
enum class HasBias { never, always, by_key };

// Which layers see a window of tokens only.
enum class Windows {
  none,
  all_layers,  // sliding_window, null for none
  by_layer,    // use_sliding_window with layer_types or max_window_layers
  by_pattern,  // layer_types, or all layers but every so-many-th
};

// The modules by the names that all families but a few have.
inline constexpr const char *kUsualEmbedding = "model.embed_tokens", *kUsualHead = "lm_head";

// Names are those of tensors in the folder's files, without ".weight"; modules and norms of a layer stand below
// layers + number. What is not said is as in LLaMA.
struct Architecture {
  std::string name;        // architectures[0] in config.json
  std::string model_type;  // as transformers names the family
  std::string embedding = kUsualEmbedding, layers = "model.layers.", norm = "model.norm", head = kUsualHead;
  std::string input_norm = "input_layernorm", mlp_norm = "post_attention_layernorm";
  // Of what attention and MLP give, before it is added to the residual stream; empty: none.
  std::string attention_out_norm = {}, mlp_out_norm = {};
  std::string q_norm = "self_attn.q_norm", k_norm = "self_attn.k_norm";  // where has_qk_norm
  // Modules that read one input, the rows of their outputs side by side: queries, keys, values; gate, up.
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
  // Where config.json does not have these keys at all; 0: none. Unset: the family does not know them.
  std::optional<double> default_score_scalar = {};   // query_pre_attn_scalar
  std::optional<double> default_attention_cap = {};  // attn_logit_softcapping
  std::optional<double> default_head_cap = {};       // final_logit_softcapping
  Windows windows = Windows::none;
  int64_t default_window = 4096;    // where config.json does not have sliding_window at all; 0: none
  int64_t window_pattern = 0;       // by_pattern: every so-many-th layer sees all
  bool has_local_rope = false;      // layers with a window have rotary settings of their own
  bool has_partial_rotary = false;  // partial_rotary_factor, and longrope under the name "yarn" (Phi-3)
  // config.json has neither head_dim nor rotary settings nor fewer key/value heads; its models are told apart by
  // position_embedding_type and norm_head, or by their sizes.
  bool is_baichuan = false;
  bool bos_by_default = true;  // does the tokenizer put bos in front where the folder does not say
};

std::vector<std::string> architecture_names();

bool is_head_name(const std::string& module);  // of some family

// The row with this name; UserError "SOURCE: architectures: ..." says what a known class would need, and lists the names
// that there are.
const Architecture& find_architecture(const std::string& name, const std::string& source = "config.json");

// The name that stands for a model_type where config.json names no class; empty where the type does not decide it.
std::string architecture_of_type(const std::string& model_type);

}  // namespace rankfold
