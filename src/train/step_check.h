// Diagnosis of a step whose numbers look wrong: the rows, the base's weights, the gradients.
#pragma once

#include "model/model.h"
#include "rankfold/adapter.h"
#include "rankfold/dataset.h"

#include <string>
#include <vector>

namespace rankfold {

// "rows 3, 17 and 20", by their numbers in the data file; the first few where they are many.
std::string rows_text(const Dataset& dataset, const std::vector<int64_t>& indices);

// Throws UserError with file and tensor if a weight of the base is not finite. Reads all weights.
void check_base_is_finite(const Model& model);

// Whether every part of a model must have a gradient for these batches. Queries and keys have one only if a label after
// the second token depends on several tokens.
bool reaches_every_part(const std::vector<Batch>& batches);

// Throws UserError with the first module (full tuning: parameter) whose gradient is all zeros.
void check_every_gradient(const Adapter& adapter);

}  // namespace rankfold
