// Attention of rows that are decoded: keys and values of what came before lie in a cache.
#pragma once

#include "ops/projection.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace rankfold::ops {

// Keys (prepared) and values of one layer. A row lies in a slot.
// On the CPU both are bytes [slots, key/value heads, bytes], laid out for the products of src/ops/cpu/decode_attention.h.
// On a device both are [slots, key/value heads, capacity, D], in the model's dtype.
struct HeadCache {
  HeadCache() = default;
  HeadCache(const Heads& heads, const at::TensorOptions& options, int64_t slots, int64_t capacity);
  void grow(int64_t capacity);                // makes room for so many positions, keeping what is there
  void copy(int64_t from, int64_t to) const;  // a slot to another

  Heads heads;
  at::ScalarType dtype = at::kFloat;
  at::Tensor keys, values;
};

// Where the rows of a flat batch lie: row b is in slot[b], in which before[b] positions are filled. No two rows are in
// one slot.
struct CachedRows {
  CachedRows(std::vector<int64_t> slot, std::vector<int64_t> before, const Sequences& sequences);

  std::vector<int64_t> slot, before;
  int64_t longest = 0;          // positions of a row, with those that are added
  at::Tensor slots, positions;  // of each token, int64 on the device of the sequences; undefined on the CPU
};

// Puts keys and values of `prepared` [T, (query + 2 key_value) * D], of the cache's dtype, behind those of their rows. The
// caller has made room for them, and counts the filled positions.
void cache_append(const at::Tensor& prepared, const AttentionSpec& spec, const Sequences& sequences,
                  const CachedRows& rows, const HeadCache& cache);
// The same, and attention of the queries over all of their row that they see: [T, query * D]. Scores and sums are fp32;
// weights are rounded to the model's dtype before they are divided by their sum, as in attend(). No gradient. It is
// defined by attend(): what that gives for the last tokens of the whole rows.
at::Tensor attend_cached(const at::Tensor& prepared, const AttentionSpec& spec, const Sequences& sequences,
                         const CachedRows& rows, const HeadCache& cache);

}  // namespace rankfold::ops
