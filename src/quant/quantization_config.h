// Reads quantization_config of a config.json: the layouts that the folder's layers may have. The tensors' names, not
// this file, tell which layers are quantised.
#pragma once

#include "io/model_folder.h"

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <string>
#include <vector>

namespace rankfold {

// How the tensors of a layer represent its weight.
enum class Layout {
  table,   // bitsandbytes 4 bits: indices into a table of 16 values, absmax of each block
  rows,    // bitsandbytes 8 bits: int8, scales SCB of each row
  gptq,    // 32-bit words along K
  awq,     // 32-bit words along N
  scaled,  // 8-bit elements and their scales
  packed   // compressed-tensors: 32-bit words along K, rows in their order
};

// Which elements share a scale.
enum class Grain { tensor, row, group, block };

struct Scheme {
  Layout layout;
  int bits = 8;
  Grain grain = Grain::row;
  int64_t group_size = 0;                     // for Grain::group
  int64_t block_rows = 0, block_columns = 0;  // for Grain::block
  bool is_symmetric = true;
  at::ScalarType stored = at::kFloat8_e4m3fn;  // for Layout::scaled
  const char* scale = ".weight_scale";         // for Layout::scaled: suffix of the tensor of scales
};

struct QuantizationConfig {
  std::string method;             // quant_method
  std::vector<Scheme> schemes;    // possible schemes of a layer, at least one
  bool has_lesser_zeros = false;  // gptq: stores each zero point minus 1
  bool needs_groups = false;      // gptq: g_idx gives the group of each input
  std::string notes;              // unknown keys, one line; empty: none
};

// Requires a config.json with quantization_config. Throws UserError that names an unsupported method or setting.
QuantizationConfig read_quantization_config(const ModelFolder& folder);

std::string text_of(const Scheme& scheme);  // "4 bits in groups of 128"

}  // namespace rankfold
