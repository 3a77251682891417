// Weights from a model folder into a network.
#pragma once

#include "io/model_folder.h"
#include "model/network.h"
#include "quant/base_storage.h"
#include "rankfold/causal_lm.h"

#include <optional>
#include <vector>

namespace rankfold {

// On the CPU a mapped weight stays where it is if it is stored in `dtype`, or in 16 bits where that is float32. Others are
// copied. A quantised folder's linear layers stay as stored; those of another folder are quantised as `storage` says,
// but for the head. UserError names a tensor that is missing, misshaped, or has no place in the model.
Network load_network(const ModelFolder& folder, const ModelConfig& config, at::ScalarType dtype, at::Device device,
                     const std::optional<BaseStorage>& storage = {});

// The linear layers by the names PEFT knows, in the model's order; a tied head is one.
std::vector<LinearModule> linear_modules(const ModelConfig& config);

// Whether the head of a folder holds other numbers than its embedding; false where one of them is not stored.
bool head_differs_from_embedding(const ModelFolder& folder);

}  // namespace rankfold
