// Full tuning: every parameter of a model is a trained leaf.
#pragma once

#include "adapter/flat_leaves.h"
#include "model/model.h"

namespace rankfold {

// Creates the leaves, with the model's values and the names of the folder's tensors. From then on the model computes
// with copies of them in its own dtype. Throws std::invalid_argument if an adapter is attached.
FlatLeaves train_all(Model& model);

// Writes the whole model under the base's file names, each tensor in its stored dtype. Copies what does not train.
void write_trained_model(const Model& model, const std::vector<Parameter>& parameters,
                         const std::filesystem::path& target);

}  // namespace rankfold
