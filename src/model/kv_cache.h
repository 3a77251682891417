// Keys and values of sequences that are being decoded.
#pragma once

#include "ops/decode_attention.h"
#include "rankfold/causal_lm.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace rankfold {

// A sequence lies in a slot, in all layers. A slot whose sequence has ended is cleared and takes the next one. One thread
// at a time. Memory: 2 x layers x slots x capacity x key/value heads x D elements.
struct KvCache {
  // options: of the model's dtype and device. capacity, limit: positions of each slot at first and at most.
  KvCache(const ModelConfig& config, const at::TensorOptions& options, int64_t slots, int64_t capacity, int64_t limit);
  std::vector<ops::HeadCache> layers;        // keys are rotated
  std::vector<int64_t> lengths;              // per slot: positions filled
  std::vector<std::vector<int32_t>> tokens;  // per slot: what fills them
  int64_t capacity, limit;
  void clear(int64_t slot);
  void copy(int64_t from, int64_t to);  // a slot's sequence to another slot
  // Makes room in every slot, keeping what is there. Capacity doubles, so that a position is copied about once.
  void reserve(int64_t positions);
};

}  // namespace rankfold
