// Keys and values of what has been decoded.
#pragma once

#include "rankfold/causal_lm.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace rankfold {

// Keys (rotated) and values of a few sequences that are decoded together.
struct KvCache {
  KvCache() = default;
  KvCache(const ModelConfig& config, const at::TensorOptions& options, int64_t rows, int64_t capacity);
  // Per layer [rows, key_value heads, capacity, head size], fp32: of the dtype that their products are summed in.
  std::vector<at::Tensor> keys, values;
  std::vector<int64_t> lengths;              // per row: positions filled
  std::vector<std::vector<int32_t>> tokens;  // per row: what fills them
  int64_t capacity = 0;
  KvCache row(int64_t b) const;  // one row that shares this cache's memory, with its length and tokens
  void keep_rows(const std::vector<int64_t>& rows);  // drops the others
  void reserve(int64_t positions);                   // makes room, keeping what is there
};

}  // namespace rankfold
