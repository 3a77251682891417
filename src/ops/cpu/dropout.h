// Dropout masks drawn where they are used: Philox 4x32-10 (src/ops/dropout.h has the counters).
#pragma once

#include "ops/cpu/simd.h"

namespace rankfold::cpu {
namespace {

// Draws for kBlocks * 8 neighbouring features: one Philox block gives 8 draws of 16 bits, low half of a word first.
constexpr int kBlocks = 16;
constexpr int64_t kChunk = kBlocks * 8;

inline void philox(const DropoutCounters& c, int64_t i, uint32_t first_block, uint16_t* draws) {
  uint32_t w0[kBlocks], w1[kBlocks], w2[kBlocks], w3[kBlocks];
  const uint32_t row = static_cast<uint32_t>(c.row[i]), position = static_cast<uint32_t>(c.position[i]);
#pragma omp simd
  for (int l = 0; l < kBlocks; ++l) {
    uint32_t c0 = row, c1 = position, c2 = first_block + static_cast<uint32_t>(l), c3 = c.stream;
    uint32_t k0 = static_cast<uint32_t>(c.key), k1 = static_cast<uint32_t>(c.key >> 32);
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0, p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
      c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
      c1 = static_cast<uint32_t>(p1);
      c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
      c3 = static_cast<uint32_t>(p0);
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    w0[l] = c0, w1[l] = c1, w2[l] = c2, w3[l] = c3;
  }
  for (int l = 0; l < kBlocks; ++l) {
    const uint32_t words[4] = {w0[l], w1[l], w2[l], w3[l]};
    memcpy(draws + l * 8, words, 16);
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

// y = mask * scale * x for rows [top, top + rows) and columns [begin, begin + columns); x and y point at the tile.
template <class T>
void dropout_tile(const T* x, int64_t x_pitch, const DropoutCounters& c, int64_t top, int64_t begin, int64_t rows,
                  int64_t columns, T* y, int64_t y_pitch) {
  const Sum<T> scale = c.scale;
  for (int64_t i = 0; i < rows; ++i, x += x_pitch, y += y_pitch)
    with_draws(c, top + i, begin, columns, [&](int64_t first, const uint16_t* draws, int64_t count) {
      const T* from = x + first;
      T* to = y + first;
#pragma omp simd
      for (int64_t j = 0; j < count; ++j) store(to[j], draws[j] >= c.threshold ? load(from[j]) * scale : Sum<T>(0));
    });
}

// y += mask * scale * x
template <class T>
void add_dropped_tile(const Sum<T>* x, int64_t x_pitch, const DropoutCounters& c, int64_t top, int64_t begin,
                      int64_t rows, int64_t columns, T* y, int64_t y_pitch) {
  const Sum<T> scale = c.scale;
  for (int64_t i = 0; i < rows; ++i, x += x_pitch, y += y_pitch)
    with_draws(c, top + i, begin, columns, [&](int64_t first, const uint16_t* draws, int64_t count) {
      const Sum<T>* from = x + first;
      T* to = y + first;
#pragma omp simd
      for (int64_t j = 0; j < count; ++j)
        store(to[j], load(to[j]) + (draws[j] >= c.threshold ? from[j] * scale : Sum<T>(0)));
    });
}

}  // namespace
}  // namespace rankfold::cpu
