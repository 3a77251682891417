// The list of a model's tensors, from its config. The loader reads the tensors in this list.
#pragma once

#include "rankfold/causal_lm.h"

#include <cstdint>
#include <string>
#include <vector>

namespace rankfold {

inline constexpr const char* kWeightSuffix = ".weight";
inline constexpr const char* kBiasSuffix = ".bias";

// Where a tensor goes in the network (model/network.h).
enum class Role {
  embedding,
  input_norm,
  qkv,
  q_norm,
  k_norm,
  o,
  attention_out_norm,
  mlp_norm,
  gate_up,
  down,
  mlp_out_norm,
  norm,
  head
};
bool is_linear(Role role);  // part of a projection: a module that adapters may target

struct TensorSpec {
  std::string name;  // in the folder's files: "model.layers.0.self_attn.q_proj.weight"
  std::vector<int64_t> shape;
  Role role;
  int64_t layer = -1;  // -1: outside the layers
  bool is_bias() const { return is_linear(role) && shape.size() == 1; }
};

// In the model's order. Matrices with the same role and layer form one projection, with rows in the order of the list.
// A module's bias follows its matrix. The head is left out if it is tied to the embedding.
std::vector<TensorSpec> tensor_list(const ModelConfig& config);

std::string module_name(const TensorSpec& tensor);  // its name without ".weight" or ".bias"

}  // namespace rankfold
