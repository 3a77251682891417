// Small random model folders and data sets for tests that train.
#pragma once

#include "rankfold/choices.h"
#include "rankfold/tensor_file.h"
#include "support/temp_folder.h"

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace rankfold::testing {

constexpr int64_t kVocabulary = 96;  // of tiny models and rows, where nothing else is said

struct TinyModel {
  bool baichuan = true;  // W_pack; otherwise q, k, v with half as many key/value heads
  bool tied = false;
  int64_t vocabulary = kVocabulary, hidden = 32, inner = 48, layers = 2, heads = 4;
  std::string dtype = "float32";
};

inline void write_tiny_model(const std::filesystem::path& folder, const TinyModel& m, int64_t seed = 1) {
  std::filesystem::create_directories(folder);
  at::manual_seed(seed);
  const at::ScalarType dtype = *meaning_of(kDtypes, m.dtype);
  std::vector<std::pair<std::string, at::Tensor>> weights;
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t columns) {
    weights.emplace_back(name + ".weight", (at::randn({rows, columns}) * 0.15).to(dtype));
  };
  const auto norm = [&](const std::string& name) {
    weights.emplace_back(name + ".weight", (1 + at::randn({m.hidden}) * 0.1).to(dtype));
  };
  const int64_t key_value = m.baichuan ? m.hidden : m.hidden / 2;
  matrix("model.embed_tokens", m.vocabulary, m.hidden);
  for (int64_t i = 0; i < m.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    norm(layer + "input_layernorm");
    if (m.baichuan) {
      matrix(layer + "self_attn.W_pack", 3 * m.hidden, m.hidden);
    } else {
      matrix(layer + "self_attn.q_proj", m.hidden, m.hidden);
      matrix(layer + "self_attn.k_proj", key_value, m.hidden);
      matrix(layer + "self_attn.v_proj", key_value, m.hidden);
    }
    matrix(layer + "self_attn.o_proj", m.hidden, m.hidden);
    norm(layer + "post_attention_layernorm");
    matrix(layer + "mlp.gate_proj", m.inner, m.hidden);
    matrix(layer + "mlp.up_proj", m.inner, m.hidden);
    matrix(layer + "mlp.down_proj", m.hidden, m.inner);
  }
  norm("model.norm");
  if (!m.tied) matrix("lm_head", m.vocabulary, m.hidden);
  write_tensor_file(folder / "model.safetensors", weights);
  std::ofstream(folder / "config.json") << nlohmann::json{
      {"architectures", {m.baichuan ? "BaiChuanForCausalLM" : "LlamaForCausalLM"}},
      {"model_type", m.baichuan ? "baichuan" : "llama"},
      {"vocab_size", m.vocabulary},
      {"hidden_size", m.hidden},
      {"intermediate_size", m.inner},
      {"num_hidden_layers", m.layers},
      {"num_attention_heads", m.heads},
      {"num_key_value_heads", m.baichuan ? m.heads : m.heads / 2},
      {"hidden_act", "silu"},
      {"rms_norm_eps", 1e-6},
      {"eos_token_id", 2},
      {"tie_word_embeddings", m.tied},
      {"torch_dtype", m.dtype}}.dump();
}

// Rows of ready ids of uneven length, with a prompt that is not learnt.
inline void write_tiny_rows(const std::filesystem::path& file, int64_t rows, int64_t vocabulary, uint64_t seed = 3) {
  std::ofstream out(file);
  const auto next = [&seed] { return (seed = seed * 6364136223846793005ULL + 1442695040888963407ULL) >> 33; };
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t length = 3 + static_cast<int64_t>(next() % 20), prompt = 1 + static_cast<int64_t>(next() % 2);
    std::vector<int64_t> ids, labels;
    for (int64_t t = 0; t < length; ++t) {
      ids.push_back(static_cast<int64_t>(next() % static_cast<uint64_t>(vocabulary)));
      labels.push_back(t < prompt ? -100 : ids.back());
    }
    out << nlohmann::json{{"input_ids", ids}, {"labels", labels}}.dump() << "\n";
  }
}

}  // namespace rankfold::testing
