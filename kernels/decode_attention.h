// Attention in generation: new tokens attend to the keys and values of earlier ones in a cache. A slot of the cache
// holds one sequence; each token has a slot and a position in it.
//   cache_append      keys[slot, head, position], values[slot, head, position] = k, v of each token
//   decode_attention  out = softmax(score) v over the keys [first, position] of the token's slot, where first is 0, or
//                     position - window + 1 with a window; score = cap(q k^T scale) - slope * distance, cap(s) =
//                     soft_cap * tanh(s / soft_cap), or s where soft_cap is 0. Query head h reads key/value head
//                     h / (query_heads / key_value_heads). Scores and sums are fp32; weights are rounded to the dtype
//                     before they are divided by their sum.
//   qkv            [M, (query_heads + 2 key_value_heads) * D] prepared, pitch ld_qkv
//   keys, values   [slots, key_value_heads, capacity, D]
//   slot_M, position_M   int64;   slopes fp32 [query_heads], null: none
//   out            [M, query_heads * D], pitch ld_out
//   workspace      decode_workspace() bytes of fp32
// Call cache_append first: decode_attention reads all keys and values from the cache, those of the new tokens too.
#pragma once

#include "kernels/types.h"

namespace rankfold::kernels {

struct DecodeAttention {
  Dtype dtype = Dtype::f32;
  int64_t m = 0, query_heads = 0, key_value_heads = 0, d = 0;
  const void* qkv = nullptr;
  int64_t ld_qkv = 0;
  void *keys = nullptr, *values = nullptr;  // decode_attention only reads
  int64_t capacity = 0;
  const int64_t *slot_M = nullptr, *position_M = nullptr;
  // Only decode_attention reads these:
  int64_t longest = 0;  // 1 + the largest position
  float scale = 1, soft_cap = 0;
  const float* slopes = nullptr;
  int64_t window = 0;
  void* out = nullptr;
  int64_t ld_out = 0;
  float* workspace = nullptr;
};

void cache_append(const DecodeAttention& p, Stream stream);
void decode_attention(const DecodeAttention& p, Stream stream);
int64_t decode_workspace(const DecodeAttention& p);  // bytes

}  // namespace rankfold::kernels
