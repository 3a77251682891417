// Computes loss, logits, and the next token's logits of a network, on flat batches.
#pragma once

#include "model/kv_cache.h"
#include "model/model_config.h"
#include "model/network.h"
#include "model/rope.h"
#include "ops/ops.h"
#include "rankfold/causal_lm.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace rankfold {

// Dropout of the inputs of low-rank updates. It applies only while gradients are recorded.
struct Dropout {
  double probability = 0;
  uint64_t seed = 0;
  bool is_mixed = false;  // several adapters are active, some with dropout: gradients are then an error
};

// Not thread-safe.
class Decoder {
 public:
  Decoder(const ModelConfig& config, at::ScalarType dtype, at::Device device)
      : config_(config), dtype_(dtype), device_(device) {
    ropes_.emplace_back(config.rope, rotary_features(config), device);
    if (config.local_rope) ropes_.emplace_back(*config.local_rope, rotary_features(config), device);
  }

  // Sets the network. The graph of a result keeps the network that computed it alive.
  void use(std::shared_ptr<Network> network, const Dropout& dropout) {
    network_ = std::move(network);
    dropout_ = dropout;
  }

  at::Tensor loss(const Batch& batch, Checkpointing checkpointing = Checkpointing::none);
  at::Tensor logits(const Batch& batch);
  // Appends the batch's sequences to the cache (row b to slot slots[b]), and returns the logits [B, V] after the last
  // token of each. No gradient.
  at::Tensor next_logits(const Batch& batch, KvCache& cache, const std::vector<int64_t>& slots);

 private:
  using Attend = std::function<at::Tensor(const at::Tensor& qkv, Layer& layer, size_t number)>;

  at::Tensor embed(const Batch& batch);
  void prefetch(size_t layer);                           // the weights of a layer; of the head, behind the last one
  bool turns_anew(int64_t before, int64_t after) const;  // RopeTable's, of any table
  // next_logits for a cache that has the capacity, and whose keys need no new rotation.
  at::Tensor append(const Batch& batch, KvCache& cache, const std::vector<int64_t>& slots);
  at::Tensor on_device(const at::Tensor& x) const { return x.to(device_, /*non_blocking=*/true); }
  // Runs the layers; attend(qkv, layer, its number) computes the attention of each.
  at::Tensor hidden(const Batch& batch, const Pass& pass, const Attend& attend, Checkpointing checkpointing);
  at::Tensor hidden(const Batch& batch, const Pass& pass, Checkpointing checkpointing);
  at::Tensor head_logits(const at::Tensor& h, const Pass& pass);  // of the last layer's output
  std::vector<Angles> angles_of(const Batch& batch);              // one for each of ropes_
  Pass pass_of(const Batch& batch) const;
  const ModelConfig& config_;
  at::ScalarType dtype_;
  at::Device device_;
  std::shared_ptr<Network> network_;
  Dropout dropout_;
  std::vector<RopeTable> ropes_;  // Layer::rope_table is the index
};

}  // namespace rankfold
