// quantization_config of a config.json: which layouts the layers of the folder may have. Which layers are quantised is
// not read here: that is what the tensors' names say.
#pragma once

#include "io/model_folder.h"

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <string>
#include <vector>

namespace rankfold {

// How a layer's tensors make up its weight.
enum class Layout {
  table,   // bitsandbytes 4 bits: nibbles of a table of 16, absmax of blocks
  rows,    // bitsandbytes 8 bits: int8, SCB of rows
  gptq,    // words along K
  awq,     // words along N
  scaled,  // 8-bit elements and their scales
  packed   // compressed-tensors: words along K, rows as they are
};

// What shares a scale.
enum class Grain { tensor, row, group, block };

struct Scheme {
  Layout layout;
  int bits = 8;
  Grain grain = Grain::row;
  int64_t group_size = 0;                     // group
  int64_t block_rows = 0, block_columns = 0;  // block
  bool is_symmetric = true;
  at::ScalarType stored = at::kFloat8_e4m3fn;  // scaled
  const char* scale = ".weight_scale";         // scaled
};

struct QuantizationConfig {
  std::string method;             // quant_method
  std::vector<Scheme> schemes;    // that a layer may have, at least one
  bool has_lesser_zeros = false;  // gptq: zero - 1 is stored
  bool needs_groups = false;      // gptq: g_idx says the groups
  std::string notes;              // keys that nobody here knows, one line; empty: none
};

// Of a config.json that has one. UserError names a method or a setting that is not read.
QuantizationConfig read_quantization_config(const ModelFolder& folder);

std::string text_of(const Scheme& scheme);  // "4 bits in groups of 128"

}  // namespace rankfold
