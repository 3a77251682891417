// The key/value cache of generation.
#pragma once

#include "ops/decode_attention.h"
#include "rankfold/causal_lm.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace rankfold {

// Each sequence has a slot, the same one in all layers. When it has ended, the slot is cleared for the next sequence.
// Not thread-safe. Memory: 2 x layers x slots x capacity x key/value heads x D elements.
struct KvCache {
  // options: of the model's dtype and device. capacity, limit: positions of each slot at first and at most.
  KvCache(const ModelConfig& config, const at::TensorOptions& options, int64_t slots, int64_t capacity, int64_t limit);
  std::vector<ops::HeadCache> layers;        // keys have rotary positions
  std::vector<int64_t> lengths;              // per slot: positions filled
  std::vector<std::vector<int32_t>> tokens;  // per slot: the ids at these positions
  int64_t capacity, limit;
  void clear(int64_t slot);
  void copy(int64_t from, int64_t to);  // copies a slot's sequence to another slot
  // Grows every slot to at least so many positions, and keeps the contents. Capacity doubles, so a position is copied
  // about once on average.
  void reserve(int64_t positions);
};

}  // namespace rankfold
