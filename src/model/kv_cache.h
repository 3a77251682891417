// Keys and values of sequences that are being decoded.
#pragma once

#include "ops/decode_attention.h"
#include "rankfold/causal_lm.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace rankfold {

// A sequence lies in a slot, in all layers. A slot whose sequence has ended is cleared and takes the next one.
struct KvCache {
  // options: of the model's dtype and device.
  KvCache(const ModelConfig& config, const at::TensorOptions& options, int64_t slots, int64_t capacity);
  std::vector<ops::HeadCache> layers;        // keys are rotated
  std::vector<int64_t> lengths;              // per slot: positions filled
  std::vector<std::vector<int32_t>> tokens;  // per slot: what fills them
  int64_t capacity = 0;
  void clear(int64_t slot);
  void copy(int64_t from, int64_t to);  // a slot's sequence to another slot
  void reserve(int64_t positions);      // makes room in every slot, keeping what is there
};

}  // namespace rankfold
