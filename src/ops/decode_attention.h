// Attention in generation: new tokens of a row attend to its earlier keys and values, which a cache has.
#pragma once

#include "ops/projection.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace rankfold::ops {

// The cache of one layer: prepared keys, and values. A slot has one row (sequence).
// On the CPU both are bytes [slots, key/value heads, bytes], in the layout of src/ops/cpu/decode_attention.h.
// On a device both are [slots, key/value heads, capacity, D], in the model's dtype.
struct HeadCache {
  HeadCache() = default;
  HeadCache(const Heads& heads, const at::TensorOptions& options, int64_t slots, int64_t capacity);
  void grow(int64_t capacity);                // to so many positions a slot; keeps the contents
  void copy(int64_t from, int64_t to) const;  // copies a slot to another

  Heads heads;
  at::ScalarType dtype = at::kFloat;
  at::Tensor keys, values;
};

// The slots of the rows of a flat batch: row b is in slot[b], where before[b] positions are filled. No two rows share a
// slot.
struct CachedRows {
  CachedRows(std::vector<int64_t> slot, std::vector<int64_t> before, const Sequences& sequences);

  std::vector<int64_t> slot, before;
  int64_t longest = 0;          // most positions of a row, with the new tokens
  at::Tensor slots, positions;  // of each token, int64 on the device of the sequences; undefined on the CPU
};

// Appends the keys and values of `prepared` [T, (query + 2 key_value) * D], in the cache's dtype, to those of their
// rows. The caller must have grown the cache, and keeps count of the filled positions.
void cache_append(const at::Tensor& prepared, const AttentionSpec& spec, const Sequences& sequences,
                  const CachedRows& rows, const HeadCache& cache);
// The same, then attention of the queries over their rows: [T, query * D]. The result is defined as that of attend()
// for the last tokens of the whole rows. Scores and sums are fp32; weights are rounded to the model's dtype before they
// are divided by their sum, as in attend(). No gradient.
at::Tensor attend_cached(const at::Tensor& prepared, const AttentionSpec& spec, const Sequences& sequences,
                         const CachedRows& rows, const HeadCache& cache);

}  // namespace rankfold::ops
