// The weights of a pre-norm decoder like LLaMA, with the adapters' updates. Families differ by rows of a table
// (model/architecture.h), not by code.
#pragma once

#include "ops/projection.h"

#include <array>
#include <memory>
#include <string>
#include <vector>

namespace rankfold {

struct Layer {
  Norm input_norm;
  Projection qkv;
  Norm q_norm, k_norm;  // of each head; weights are undefined if the family has none
  AttentionSpec attention;
  size_t rope_table = 0;  // index of the decoder's rotary table
  Projection o;
  Norm attention_out_norm;  // of attention's output, before the residual sum; weight undefined if there is none
  Norm mlp_norm;
  Projection gate_up;
  Activation activation = Activation::silu;
  Projection down;
  Norm mlp_out_norm;  // as attention_out_norm

  std::array<Projection*, 4> projections() { return {&qkv, &o, &gate_up, &down}; }
  std::array<const Projection*, 4> projections() const { return {&qkv, &o, &gate_up, &down}; }
  QkNorms qk_norms() { return q_norm.weight.defined() ? QkNorms{&q_norm, &k_norm} : QkNorms{}; }
};

// Copies share the frozen weights. AdapterSet replaces the current network and never changes it. The graph of a loss
// owns its network, so later changes of adapters do not affect it.
struct Network {
  std::string embedding_name;               // of its tensor in the folder
  std::shared_ptr<FrozenWeight> embedding;  // [V, K]; the master's values where it trains
  at::Tensor embedding_master;              // fp32 leaf where it trains
  // Updates of the embedding's rows: scale * (B A)^T with A [r, V], B [K, r]. No dropout.
  std::vector<LowRank> embedding_updates;
  std::vector<Layer> layers;
  Norm norm;
  Projection head;
  bool is_tied = false;        // the head's weight is the embedding
  double embedding_scale = 1;  // of the embedding's rows where they enter the first layer, rounded to the model's dtype
  double logit_soft_cap = 0;   // logits z become soft_cap * tanh(z / soft_cap); 0: they stay

  std::vector<Projection*> projections();  // in the model's order, head last
  std::vector<Norm*> norms();
  bool is_tied_head(const Projection* p) const { return is_tied && p == &head; }
};

}  // namespace rankfold
