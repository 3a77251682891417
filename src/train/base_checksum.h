// Checksums that identify the base model of a checkpoint.
#pragma once

#include "io/model_folder.h"
#include "rankfold/error.h"

#include <string>

namespace rankfold {

// A checksum of every tensor: name, dtype, shape and all bytes. It reads all
// weights, and drops their pages from memory after each tensor. 14 GB take a
// few seconds from the page cache; from a disk, as long as reading them.
// Calls `stop` before every tensor.
std::string base_checksum(const ModelFolder& folder, const Stop& stop);

// The other form that a checkpoint may have: a checksum of names, dtypes,
// shapes and 128 bytes of each tensor.
bool is_sampled_checksum(const std::string& checksum);
std::string sampled_base_checksum(const ModelFolder& folder);

}  // namespace rankfold
