// Parts of a merge, and what it must have made.
#pragma once

#include "io/model_folder.h"
#include "rankfold/causal_lm.h"
#include "rankfold/error.h"

#include <filesystem>
#include <vector>

namespace rankfold {

// Compares a merged folder, tensor by tensor, with base + adapter computed in double and rounded to the stored dtype.
// Only the fp32 arithmetic of merge() may lie between the two. Throws Error(kDefect) that names the tensor. Memory: a
// block of rows.
void check_merged(const std::filesystem::path& model, const std::filesystem::path& adapter,
                  const std::filesystem::path& merged, const Stop& stop = {});

}  // namespace rankfold
