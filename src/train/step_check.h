// What is asked of a step whose numbers look wrong: which rows, which weights, which adapters.
#pragma once

#include "model/model.h"
#include "rankfold/adapter.h"
#include "rankfold/dataset.h"

#include <string>
#include <vector>

namespace rankfold {

// "rows 3, 17 and 20", by their numbers in the data file; the first few where they are many.
std::string rows_text(const Dataset& dataset, const std::vector<int64_t>& indices);

// UserError with file and tensor where a weight of the base is not finite. Reads all of them.
void check_base_is_finite(const Model& model);

// Whether every part of a model must have a gradient by these batches: a label beyond the second token asks for what
// several tokens say, without which queries and keys have none.
bool reaches_every_part(const std::vector<Batch>& batches);

// UserError with the first module (full tuning: parameter) whose gradient is all zeros.
void check_every_gradient(const Adapter& adapter);

}  // namespace rankfold
