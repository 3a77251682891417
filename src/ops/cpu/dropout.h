// Dropout masks by Philox 4x32-10, drawn again at each use (src/ops/dropout.h has the counters).
#pragma once

#include "ops/cpu/simd.h"

namespace rankfold::cpu {
namespace {

typedef uint64_t LongVector __attribute__((vector_size(RANKFOLD_VECTOR_BYTES)));

// The 64-bit products of m and each 32-bit element of x with an even index.
inline LongVector multiply_even(PairVector x, uint32_t m) {
#if defined(__AVX512F__)
  return (LongVector)_mm512_mul_epu32((__m512i)x, _mm512_set1_epi32(static_cast<int>(m)));
#elif defined(__AVX2__)
  return (LongVector)_mm256_mul_epu32((__m256i)x, _mm256_set1_epi32(static_cast<int>(m)));
#elif defined(__SSE2__)
  return (LongVector)_mm_mul_epu32((__m128i)x, _mm_set1_epi32(static_cast<int>(m)));
#else
  return ((LongVector)x & 0xffffffffu) * m;
#endif
}

// The low and high 32 bits of x * m, element by element.
inline void multiply_wide(PairVector x, uint32_t m, PairVector& low, PairVector& high) {
  constexpr uint64_t kLow = 0xffffffffu;
  const LongVector even = multiply_even(x, m), odd = multiply_even((PairVector)((LongVector)x >> 32), m);
  low = (PairVector)((even & kLow) | (odd << 32));
  high = (PairVector)((even >> 32) | (odd & ~kLow));
}

// Draws for kBlocks * 8 neighbouring features: one Philox block gives 8 draws of 16 bits, low half of a word first.
constexpr int kBlocks = 16;
constexpr int64_t kChunk = kBlocks * 8;

// a[0], b[0], c[0], d[0], a[1], ... as 16-bit halves, low first.
inline void store_interleaved(PairVector a, PairVector b, PairVector c, PairVector d, uint16_t* y) {
  constexpr uint32_t lanes = sizeof(PairVector) / 4;
  PairVector low, high, low_pairs, high_pairs;  // which lanes of two vectors make a new one
  for (uint32_t i = 0; i < lanes; ++i) {
    low[i] = i / 2 + i % 2 * lanes, high[i] = low[i] + lanes / 2;
    low_pairs[i] = i / 4 * 2 + i % 2 + i / 2 % 2 * lanes, high_pairs[i] = low_pairs[i] + lanes / 2;
  }
  const PairVector ab = __builtin_shuffle(a, b, low), cd = __builtin_shuffle(c, d, low);
  const PairVector ab_high = __builtin_shuffle(a, b, high), cd_high = __builtin_shuffle(c, d, high);
  const PairVector parts[4] = {__builtin_shuffle(ab, cd, low_pairs), __builtin_shuffle(ab, cd, high_pairs),
                               __builtin_shuffle(ab_high, cd_high, low_pairs),
                               __builtin_shuffle(ab_high, cd_high, high_pairs)};
  memcpy(y, parts, sizeof parts);
}

inline void philox(const DropoutCounters& c, int64_t i, uint32_t first_block, uint16_t* draws) {
  constexpr uint32_t lanes = sizeof(PairVector) / 4;
  PairVector lane;
  for (uint32_t l = 0; l < lanes; ++l) lane[l] = l;
  for (uint32_t begin = 0; begin < kBlocks; begin += lanes) {
    PairVector c0 = broadcast(static_cast<uint32_t>(c.row[i])), c1 = broadcast(static_cast<uint32_t>(c.position[i]));
    PairVector c2 = lane + (c.block + first_block + begin), c3 = broadcast(c.stream);
    uint32_t k0 = static_cast<uint32_t>(c.key), k1 = static_cast<uint32_t>(c.key >> 32);
    for (int round = 0; round < 10; ++round) {
      PairVector low0, high0, low1, high1;
      multiply_wide(c0, 0xD2511F53u, low0, high0);
      multiply_wide(c2, 0xCD9E8D57u, low1, high1);
      c0 = high1 ^ c1 ^ k0;
      c1 = low1;
      c2 = high0 ^ c3 ^ k1;
      c3 = low0;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    store_interleaved(c0, c1, c2, c3, draws + begin * 8);
  }
}

// f(first column, draws, count) over the columns [begin, begin + columns) of row i; begin is a multiple of kChunk.
template <class F>
inline void with_draws(const DropoutCounters& c, int64_t i, int64_t begin, int64_t columns, F&& f) {
  alignas(64) uint16_t draws[kChunk];
  for (int64_t j = 0; j < columns; j += kChunk) {
    philox(c, i, static_cast<uint32_t>((begin + j) / 8), draws);
    f(j, draws, least(kChunk, columns - j));
  }
}

inline float kept(float x, bool keep) { return keep ? x : 0.0f; }
inline double kept(double x, bool keep) { return keep ? x : 0.0; }
inline Bf16 kept(Bf16 x, bool keep) { return {keep ? x.bits : uint16_t{0}}; }

// y = mask * x for rows [top, top + rows) and columns [begin, begin + columns); x and y point at the tile. The scale is
// the caller's to apply, to sums rather than to every element.
template <class T>
void dropout_tile(const T* x, int64_t x_pitch, const DropoutCounters& c, int64_t top, int64_t begin, int64_t rows,
                  int64_t columns, T* y, int64_t y_pitch) {
  const uint16_t threshold = c.threshold;
  for (int64_t i = 0; i < rows; ++i, x += x_pitch, y += y_pitch)
    with_draws(c, top + i, begin, columns, [&](int64_t first, const uint16_t* draws, int64_t count) {
      const T* from = x + first;
      T* to = y + first;
#pragma omp simd
      for (int64_t j = 0; j < count; ++j) to[j] = kept(from[j], draws[j] >= threshold);
    });
}

// y += mask * scale * x
template <class T>
void add_dropped_tile(const Sum<T>* x, int64_t x_pitch, const DropoutCounters& c, int64_t top, int64_t begin,
                      int64_t rows, int64_t columns, T* y, int64_t y_pitch) {
  const Sum<T> scale = c.scale;
  const uint16_t threshold = c.threshold;
  for (int64_t i = 0; i < rows; ++i, x += x_pitch, y += y_pitch)
    with_draws(c, top + i, begin, columns, [&](int64_t first, const uint16_t* draws, int64_t count) {
      const Sum<T>* from = x + first;
      T* to = y + first;
#pragma omp simd
      for (int64_t j = 0; j < count; ++j) store(to[j], load(to[j]) + kept(from[j], draws[j] >= threshold) * scale);
    });
}

}  // namespace
}  // namespace rankfold::cpu
