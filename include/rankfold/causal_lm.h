// A causal language model from a Hugging Face folder: frozen base weights, mapped read-only where the layout allows.
#pragma once

#include "rankfold/batch.h"
#include "rankfold/config.h"
#include "rankfold/tokenizer.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace rankfold {

class Decoder;  // src/model/decoder.h
struct Model;   // src/model/model.h

enum class RopeType { standard, linear, dynamic, yarn, llama3, longrope };

// Rotary positions: rope_parameters of config.json, defaults as in transformers.
struct RopeParameters {
  RopeType type = RopeType::standard;
  double theta = 10000;
  double factor = 1;
  double partial_rotary_factor = 1;                  // share of a head's features that is turned
  int64_t original_max_position_embeddings = 0;      // dynamic, yarn, llama3, longrope
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;              // yarn
  double mscale = 0, mscale_all_dim = 0;             // yarn; 0: not said
  bool truncate = true;                              // yarn
  double attention_factor = 0;                       // yarn, longrope: of cosines and sines; 0: by the type's formula
  std::vector<double> short_factor = {}, long_factor = {};  // longrope, [turned features / 2]
};

// config.json, in the words of the newest spelling.
struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM"
  std::string model_type;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position_embeddings = 0;  // 0: not said
  double rms_norm_eps = 1e-6;
  RopeParameters rope;
  std::optional<RopeParameters> local_rope = {};  // of layers with a window, where they have their own (Gemma 3)
  double query_pre_attn_scalar = 0;               // scores are divided by its root; 0: by that of head_dim
  double attn_logit_softcapping = 0;              // a score s becomes c * tanh(s / c); 0: it stays
  double final_logit_softcapping = 0;             // likewise a logit
  bool uses_alibi = false;                        // slopes in place of rotary positions (Baichuan-13B)
  bool has_norm_head = false;                     // rows of the head are divided by their norms (Baichuan 2)
  bool has_qk_norm = false;                       // queries and keys are normalised by head (Qwen3)
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  std::vector<int64_t> windows = {};  // for each layer: tokens that a token sees, itself the last; 0: all before it
  bool tie_word_embeddings = false;
  std::vector<int64_t> eos_token_ids;  // generation_config.json's if it says so
  at::ScalarType stored_dtype = at::kFloat;
  // Lines that a person should read: what the folder says and the model does not use. The programs print them.
  std::vector<std::string> notes = {};
};

// A linear layer of the model by the name PEFT knows it: "model.layers.0.self_attn.W_pack". The embedding is one on
// vectors that are one at a token's id and zero elsewhere.
struct LinearModule {
  std::string name;
  int64_t out_features = 0;
  int64_t in_features = 0;
  bool is_head = false;
  bool is_embedding = false;
};

// A shared handle: copies are the same model. One thread at a time computes with it, runs backward() of its losses or
// changes its adapters; tokenizer() may be called from any thread.
class CausalLM {
 public:
  // Throws UserError for a folder that is not whole or an architecture that is not supported, by name. An adapter that
  // lies in the folder too is not loaded.
  static CausalLM load(const std::filesystem::path& folder, const LoadConfig& config = {});

  // Sum (not mean) over the labels that count of the negative log-likelihood; a scalar, fp32. Where gradients are
  // recorded (at::GradMode), adapters drop out their inputs; under at::NoGradGuard they do not.
  //
  // On a CUDA device, backward in 16 bits turns LibTorch's deterministic algorithms on for the whole process while it
  // launches the backward of a layer's attention, and then back: LibTorch has no other way to ask for it. Another thread
  // that runs an operator of LibTorch at that moment gets the deterministic one, or an error where there is none.
  at::Tensor loss(const Batch& batch) const;
  at::Tensor logits(const Batch& batch) const;  // [T, V] in the model's dtype

  const ModelConfig& config() const;
  const std::filesystem::path& folder() const;
  at::ScalarType dtype() const;  // computed in
  at::Device device() const;
  const std::vector<LinearModule>& linear_modules() const;  // the embedding is none of them
  int64_t parameter_count() const;                          // of the base

  // Loaded at the first call; UserError where the folder has none.
  const Tokenizer& tokenizer() const;
  bool has_tokenizer() const;

  // Adapters (adapter.h) by name, in the order in which they were attached. Those that are active compute: their updates
  // are added to the base's. A new adapter is the only active one at first.
  std::vector<std::string> adapter_names() const;
  std::vector<std::string> active_adapters() const;
  // Exactly these are active from now on; none: the base alone. Losses computed before keep what they were computed
  // with. Of several that have dropout none can train. std::invalid_argument for a name that is not attached, or where
  // the model itself is trained. On a CUDA device as many can compute as make 12 updates of a projection: four adapters
  // of q, k and v; loss() throws for more.
  void set_active_adapters(const std::vector<std::string>& names) const;
  // Folds the active adapters into the weights in memory (W + scale * B A in fp32, rounded once to dtype()) and detaches
  // them. The folder stays as it is, so an adapter that is trained afterwards cannot be saved: merge() a folder for that.
  // Nothing undoes it but loading again. Needs the memory of the changed weights twice. UserError as merge().
  void merge_adapters() const;

  const std::shared_ptr<Model>& shared_model() const { return model_; }  // internal
  std::shared_ptr<Decoder> shared_decoder() const;                       // internal

 private:
  std::shared_ptr<Model> model_;
};

}  // namespace rankfold
