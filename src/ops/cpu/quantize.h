// Codes and scales of weights in fewer bits, as bitsandbytes 0.50.1 makes them on a CPU. What is quantised is finite.
#pragma once

#include "ops/cpu/narrow.h"

namespace rankfold::cpu {
namespace {

constexpr int64_t kNibbleRun = 256;   // elements whose nibbles are found at a time
constexpr int64_t kProductRun = 256;  // products that are kept before they are rounded

inline float largest_magnitude(const float* x, int64_t count) {
  float most = 0;
#pragma omp simd reduction(max : most)
  for (int64_t j = 0; j < count; ++j) {
    const float magnitude = x[j] < 0 ? -x[j] : x[j];
    most = magnitude > most ? magnitude : most;
  }
  return most;
}

// A block at a time. Numbers are multiplied by a reciprocal. In the last block, if it is not whole, they are divided.
void quantize_table(const float* x, int64_t count, int64_t block, const float* bounds, const uint8_t* order,
                    float* scale, uint8_t* codes) {
  constexpr float kSmallest = 1e-38f;
  for (int64_t begin = 0; begin < count; begin += block, x += block) {
    const int64_t size = least(block, count - begin);
    const float most = largest_magnitude(x, size), divisor = most > kSmallest ? most : kSmallest;
    const bool is_whole = size == block;
    *scale++ = is_whole ? most : divisor;
    const float reciprocal = 1 / divisor;
    for (int64_t j = 0; j < size; j += kNibbleRun) {
      const int64_t run = least(kNibbleRun, size - j);
      alignas(64) int32_t found[kNibbleRun];
#pragma omp simd
      for (int64_t i = 0; i < run; ++i) {
        const float value = is_whole ? x[j + i] * reciprocal : x[j + i] / divisor;
        int32_t below = 0;
#pragma GCC unroll 15
        for (int b = 0; b < 15; ++b) below += value > bounds[b];
        found[i] = below;
      }
      if (run % 2 != 0) {  // the last byte's second nibble is that of zero
        int32_t below = 0;
        for (int b = 0; b < 15; ++b) below += 0 > bounds[b];
        found[run] = below;
      }
      for (int64_t i = 0; i < run; i += 2) *codes++ = static_cast<uint8_t>(order[found[i]] << 4 | order[found[i + 1]]);
    }
  }
}

// Apart from the sum that rounds to integers: the compiler may otherwise make one operation of both, rounded once.
__attribute__((noinline)) void multiply(const float* x, int64_t count, float factor, float* y) {
#pragma omp simd
  for (int64_t j = 0; j < count; ++j) y[j] = x[j] * factor;
}
void quantize_int8(const float* x, int64_t m, int64_t k, float* scale, int8_t* codes) {
  for (int64_t i = 0; i < m; ++i, x += k, codes += k) {
    const float most = scale[i] = largest_magnitude(x, k);
    const float factor = most > 0 ? 1 / most * 127 : 0;
    for (int64_t begin = 0; begin < k; begin += kProductRun) {
      const int64_t count = least(kProductRun, k - begin);
      alignas(64) float products[kProductRun];
      multiply(x + begin, count, factor, products);
#pragma omp simd
      for (int64_t j = 0; j < count; ++j) {
        const float shifted = products[j] + 12582912.0f;  // adding 1.5 * 2^23 rounds to an integer
        codes[begin + j] = static_cast<int8_t>(static_cast<int32_t>(bits_of(shifted)) - 0x4b400000);
      }
    }
  }
}

// A scale is a normal number: its quotients are then good to E4M3's own steps.
void quantize_fp8(const float* x, int64_t m, int64_t k, float* scale, uint8_t* codes) {
  for (int64_t i = 0; i < m; ++i, x += k, codes += k) {
    const float most = largest_magnitude(x, k), quotient = most / kLargestE4M3;
    const float divisor = scale[i] = most == 0 ? 1 : quotient < 0x1p-126f ? 0x1p-126f : quotient;
#pragma omp simd
    for (int64_t j = 0; j < k; ++j) codes[j] = to_e4m3(x[j] / divisor);
  }
}

}  // namespace
}  // namespace rankfold::cpu
