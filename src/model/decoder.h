// The network: a pre-norm decoder of LLaMA's shape over flat tokens. Families differ by rows of a table
// (model/architecture.h), not by code.
#pragma once

#include "io/model_folder.h"
#include "ops/ops.h"
#include "ops/recompute.h"
#include "rankfold/causal_lm.h"

#include <optional>
#include <vector>

namespace rankfold {

struct Layer {
  Norm input_norm;
  Projection qkv;
  Projection o;
  Norm post_norm;
  Projection gate_up;
  Projection down;
};

// Keys (rotated) and values of a few sequences that are decoded together.
struct KvCache {
  KvCache(const ModelConfig& config, const at::TensorOptions& options, int64_t rows, int64_t capacity);
  std::vector<at::Tensor> keys, values;  // per layer [rows, key_value heads, capacity, head size]
  std::vector<int64_t> lengths;          // per row: positions filled
  int64_t capacity = 0;
  void keep_rows(const std::vector<int64_t>& rows);  // drops the others
  void reserve(int64_t positions);                   // makes room, keeping what is there
};

// What the backward pass computes again instead of keeping it: nothing, gate and up of each layer, or whole layers.
enum class Checkpointing { none, mlp, full };

class Decoder {
 public:
  Decoder(ModelFolder folder, ModelConfig config, at::ScalarType dtype, at::Device device);

  at::Tensor loss(const Batch& batch);
  at::Tensor logits(const Batch& batch);
  // Appends the batch's sequences (row b to cache row b) and gives the logits [B, V] after the last token of each. No
  // gradient.
  at::Tensor next_logits(const Batch& batch, KvCache& cache);

  std::vector<Projection*> projections();  // in the model's order, head last
  std::vector<Norm*> norms();
  bool is_tied(const Projection* p) const { return config.tie_word_embeddings && p == &head; }

  ModelFolder folder;
  std::shared_ptr<const Companions> companions;  // of the folder, where the whole model is trained and written again
  ModelConfig config;
  at::ScalarType dtype;
  at::Device device;
  std::string embedding_name;
  at::Tensor embedding;         // [V, K]
  at::Tensor embedding_master;  // fp32 leaf in full tuning
  std::vector<Layer> layers;
  Norm norm;
  Projection head;  // shares its weight with the embedding where they are tied
  std::vector<LinearModule> linears;
  std::optional<Tokenizer> tokenizer;

  Checkpointing checkpointing = Checkpointing::none;

  // Of the adapter that is attached.
  bool has_adapter = false;
  double dropout = 0;
  uint64_t seed = 0;

 private:
  at::Tensor embed(const Batch& batch);
  at::Tensor on_device(const at::Tensor& x) const { return x.to(device, /*non_blocking=*/true); }
  // The layers, with attend(qkv, layer number) in the middle of each. What backward may run again holds its own copies.
  template <class Attend>
  at::Tensor hidden(const Batch& batch, const Pass& pass, const Attend& attend) {
    at::Tensor h = embed(batch);
    for (size_t i = 0; i < layers.size(); ++i) {
      const auto attention = [layer = &layers[i], pass, attend, i](const at::Tensor& x) {
        const auto [qkv, through] = ops::norm_project(x, layer->input_norm, layer->qkv, pass);
        return ops::project_add(attend(qkv, i), layer->o, through, pass);
      };
      const auto mlp = [layer = &layers[i], pass](const at::Tensor& x) {
        const auto [gate_up, through] = ops::norm_project(x, layer->post_norm, layer->gate_up, pass);
        return ops::swiglu_project_add(gate_up, layer->down, through, pass);
      };
      if (checkpointing == Checkpointing::full) {
        h = ops::recompute(h, [=](const at::Tensor& x) { return mlp(attention(x)); });
      } else {
        h = attention(h);
        h = checkpointing == Checkpointing::mlp ? ops::recompute(h, mlp) : mlp(h);
      }
    }
    return h;
  }
  at::Tensor hidden(const Batch& batch, const Pass& pass);
  Pass pass_of(const Batch& batch) const;
  const Rope& rope_for(int64_t positions);
  Rope rope_;
};

}  // namespace rankfold
