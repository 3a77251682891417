// Weights from a model folder into a network.
#pragma once

#include "io/model_folder.h"
#include "model/network.h"
#include "rankfold/causal_lm.h"

#include <vector>

namespace rankfold {

// A mapped weight stays where it is if it is stored in `dtype` and computed with on the CPU; others are copied. UserError
// names a tensor that is missing, misshaped, or has no place in the model.
Network load_network(const ModelFolder& folder, const ModelConfig& config, at::ScalarType dtype, at::Device device);

// The linear layers by the names PEFT knows, in the model's order; a tied head is one.
std::vector<LinearModule> linear_modules(const ModelConfig& config);

// Whether the head of a folder holds other numbers than its embedding; false where one of them is not stored.
bool head_differs_from_embedding(const ModelFolder& folder);

}  // namespace rankfold
