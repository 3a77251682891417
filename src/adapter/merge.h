// Checks the result of a merge.
#pragma once

#include "rankfold/adapter.h"
#include "rankfold/error.h"

#include <filesystem>

namespace rankfold {

// Compares a merged folder, tensor by tensor, with base + adapter computed in double and rounded to the stored dtype.
// It allows for the fp32 arithmetic of merge(), and for a quantised layer also one quantisation step. Throws
// Error(kDefect) that names the tensor. Pass the `options` that merge() had. Memory: a block of rows, and one quantised
// layer.
void check_merged(const std::filesystem::path& model, const std::filesystem::path& adapter,
                  const std::filesystem::path& merged, const MergeOptions& options = {}, const Stop& stop = {});

}  // namespace rankfold
