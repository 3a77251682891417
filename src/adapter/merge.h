// Parts of a merge, and what it must have made.
#pragma once

#include "rankfold/adapter.h"
#include "rankfold/error.h"

#include <filesystem>

namespace rankfold {

// Compares a merged folder, tensor by tensor, with base + adapter computed in double and rounded to the stored dtype.
// Only the fp32 arithmetic of merge() may lie between the two; of a layer in fewer bits also a step of its kind. Throws
// Error(kDefect) that names the tensor. `options` as merge() had them. Memory: a block of rows, and a layer in fewer bits.
void check_merged(const std::filesystem::path& model, const std::filesystem::path& adapter,
                  const std::filesystem::path& merged, const MergeOptions& options = {}, const Stop& stop = {});

}  // namespace rankfold
