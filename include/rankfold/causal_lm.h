// A causal language model from a Hugging Face folder. The base weights are frozen; they are mapped read-only where
// their layout in the file allows it.
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

// Rotary position embedding: rope_parameters of config.json, with the defaults of transformers.
struct RopeParameters {
  RopeType type = RopeType::standard;
  double theta = 10000;
  double factor = 1;
  double partial_rotary_factor = 1;                  // share of a head's features that is rotated
  int64_t original_max_position_embeddings = 0;      // dynamic, yarn, llama3, longrope
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;              // yarn
  double mscale = 0, mscale_all_dim = 0;             // yarn; 0: not set
  bool truncate = true;                              // yarn
  double attention_factor = 0;  // yarn, longrope: factor of cosines and sines; 0: the type's formula
  std::vector<double> short_factor = {}, long_factor = {};  // longrope, [rotated features / 2]
};

// config.json, under the newest names of its keys.
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
  int64_t max_position_embeddings = 0;  // 0: not set
  double rms_norm_eps = 1e-6;
  RopeParameters rope;
  std::optional<RopeParameters> local_rope = {};  // for sliding-window layers that have their own (Gemma 3)
  double query_pre_attn_scalar = 0;               // scores are divided by its square root; 0: by that of head_dim
  double attn_logit_softcapping = 0;              // c: a score s becomes c * tanh(s / c); 0: off
  double final_logit_softcapping = 0;             // the same for logits
  bool uses_alibi = false;                        // ALiBi slopes instead of rotary positions (Baichuan-13B)
  bool has_norm_head = false;                     // each row of the head is divided by its norm (Baichuan 2)
  bool has_qk_norm = false;                       // RMSNorm of each head's queries and keys (Qwen3)
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  std::vector<int64_t> windows = {};  // per layer: sliding window in tokens, including the token itself; 0: full causal
  bool tie_word_embeddings = false;
  std::vector<int64_t> eos_token_ids;  // from generation_config.json, else config.json
  at::ScalarType stored_dtype = at::kFloat;
  // Messages for the user: settings in the folder that the model ignores. The programs print them.
  std::vector<std::string> notes = {};
};

// A linear layer of the model, under the name that PEFT uses: "model.layers.0.self_attn.W_pack". The embedding counts
// as a linear layer on one-hot vectors.
struct LinearModule {
  std::string name;
  int64_t out_features = 0;
  int64_t in_features = 0;
  bool is_head = false;
  bool is_embedding = false;
};

// A shared handle: copies refer to the same model. Only one thread at a time may compute with a model, call backward()
// on its losses, or change its adapters. Any thread may call tokenizer() at any time.
class CausalLM {
 public:
  // Loads a model folder. An adapter in the same folder is ignored. Throws UserError for an incomplete folder, a bad
  // setting, or an unsupported architecture, which the message names. Throws Error with kNoDevice where the device does
  // not exist, with kOutOfMemory where memory is short.
  static CausalLM load(const std::filesystem::path& folder, const LoadConfig& config = {});

  // Sum (not mean) of the negative log-likelihood over all labels other than kIgnoreIndex; a scalar, fp32. Adapters
  // apply dropout while gradients are recorded (at::GradMode), and not under at::NoGradGuard. Throws
  // std::invalid_argument for an empty batch or a token id outside the vocabulary.
  //
  // On a CUDA device in 16 bits, backward affects the whole process: it enables LibTorch's deterministic algorithms
  // while it launches the backward of each layer's attention. Then it restores the setting. LibTorch has no narrower
  // switch. A LibTorch operator that another thread runs at that moment uses its deterministic version, or throws where
  // it has none.
  at::Tensor loss(const Batch& batch) const;
  at::Tensor logits(const Batch& batch) const;  // [T, V] in the model's dtype; T tokens, V vocabulary

  const ModelConfig& config() const;
  const std::filesystem::path& folder() const;
  at::ScalarType dtype() const;  // dtype of the computation
  at::Device device() const;
  const std::vector<LinearModule>& linear_modules() const;  // without the embedding
  int64_t parameter_count() const;                          // of the base, without adapters

  // Loads the tokenizer at the first call. Throws UserError where the folder has none. The reference is valid as long
  // as the model.
  const Tokenizer& tokenizer() const;
  bool has_tokenizer() const;

  // Names of the attached adapters (adapter.h), in the order of attachment. The model adds the updates of the active
  // ones to the base. A newly attached adapter is the only active one.
  std::vector<std::string> adapter_names() const;
  std::vector<std::string> active_adapters() const;
  // Makes exactly these adapters active; an empty list selects the base alone. Losses computed earlier keep the
  // adapters that they were computed with. Several active adapters cannot train if one of them has dropout.
  // On a CUDA device, one fused projection takes at most 12 updates, such as four adapters on q, k and v; loss() throws
  // for more.
  // Throws std::invalid_argument for a name that is not attached, or where the model itself is trained.
  void set_active_adapters(const std::vector<std::string>& names) const;
  // Merges the active adapters into the weights in memory (W + scale * B A in fp32, rounded once to dtype()) and
  // detaches them. Only loading the model again undoes it. The changed weights exist twice in memory meanwhile.
  // The folder stays unchanged, so an adapter trained afterwards cannot be saved; use merge() for that. Throws
  // UserError for a sum that is not finite, and for an update of only one of two tied weights.
  void merge_adapters() const;

  const std::shared_ptr<Model>& shared_model() const { return model_; }  // internal
  std::shared_ptr<Decoder> shared_decoder() const;                       // internal

 private:
  std::shared_ptr<Model> model_;
};

}  // namespace rankfold
