// Which base model a checkpoint belongs to.
#pragma once

#include "io/model_folder.h"
#include "rankfold/error.h"

#include <string>

namespace rankfold {

// Of every byte of every tensor, with its name, dtype and shape. Reads all
// weights, whose pages leave memory after each tensor: 14 GB take a few seconds
// from memory, and from a disk what the first step would take to read them.
// `stop` is asked before every tensor.
std::string base_checksum(const ModelFolder& folder, const Stop& stop);

// The other form that a checkpoint may hold: of names, dtypes, shapes and 128
// bytes of each tensor.
bool is_sampled_checksum(const std::string& checksum);
std::string sampled_base_checksum(const ModelFolder& folder);

}  // namespace rankfold
