// Every parameter of a model as a trained leaf.
#pragma once

#include "adapter/flat_leaves.h"
#include "model/model.h"

namespace rankfold {

// The leaves, by the names of the folder's tensors, with the model's values. The model computes with them from then on,
// in its own dtype. std::invalid_argument where an adapter is attached to it.
FlatLeaves train_all(Model& model);

// The whole model under the base's file names, each tensor in its stored dtype; what does not train is copied.
void write_trained_model(const Model& model, const std::vector<Parameter>& parameters,
                         const std::filesystem::path& target);

}  // namespace rankfold
