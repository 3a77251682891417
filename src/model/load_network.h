// Loads the weights of a model folder into a network.
#pragma once

#include "io/model_folder.h"
#include "model/network.h"
#include "quant/base_storage.h"
#include "quant/quantized_folder.h"
#include "rankfold/causal_lm.h"

#include <optional>
#include <vector>

namespace rankfold {

// Refuses to quantise the head of a model that has none of its own, or whose head's rows are divided by their norms.
void check_quantized_head(const ModelFolder& folder, const ModelConfig& config);

// On the CPU a weight stays in the mapped file if it is stored in `dtype`, or in 16 bits where `dtype` is float32.
// Other weights are copied. Linear layers of a quantised folder keep its codes. Those of other folders
// are quantised as `storage` says. UserError names a tensor that is missing, misshaped, or has no place in the
// model.
Network load_network(const ModelFolder& folder, const ModelConfig& config, at::ScalarType dtype, at::Device device,
                     const std::optional<QuantizedFolder>& quantized, const std::optional<BaseStorage>& storage);

// The linear layers by PEFT's names, in the model's order, with the head, tied or not.
std::vector<LinearModule> linear_modules(const ModelConfig& config);

// Whether the head of a folder has other values than its embedding; false if one of them is not stored.
bool head_differs_from_embedding(const ModelFolder& folder);

}  // namespace rankfold
