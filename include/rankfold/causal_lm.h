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
#include <string>
#include <vector>

namespace rankfold {

class Decoder;  // src/model/decoder.h

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
  double rope_theta = 10000;
  double rope_factor = 1;  // rope type "linear": positions are divided by it
  bool tie_word_embeddings = false;
  std::vector<int64_t> eos_token_ids;  // generation_config.json's if it says so
  at::ScalarType stored_dtype = at::kFloat;
};

// A linear layer of the model by the name PEFT knows it: "model.layers.0.self_attn.W_pack".
struct LinearModule {
  std::string name;
  int64_t out_features = 0;
  int64_t in_features = 0;
  bool is_head = false;
};

class CausalLM {
 public:
  // Throws UserError for a folder that is not whole or an architecture that is not supported, by name.
  static CausalLM load(const std::filesystem::path& folder, const LoadConfig& config = {});

  // Sum (not mean) over the labels that count of the negative log-likelihood; a scalar, fp32. Where gradients are
  // recorded (at::GradMode), adapters drop out their inputs; under at::NoGradGuard they do not.
  at::Tensor loss(const Batch& batch) const;
  at::Tensor logits(const Batch& batch) const;  // [T, V] in the model's dtype

  const ModelConfig& config() const;
  const std::filesystem::path& folder() const;
  at::ScalarType dtype() const;  // computed in
  at::Device device() const;
  const std::vector<LinearModule>& linear_modules() const;
  int64_t parameter_count() const;  // of the base

  // Loaded at the first call; UserError where the folder has none.
  const Tokenizer& tokenizer() const;
  bool has_tokenizer() const;

  const std::shared_ptr<Decoder>& shared_decoder() const { return decoder_; }  // internal: layers and projections

 private:
  std::shared_ptr<Decoder> decoder_;
};

}  // namespace rankfold
