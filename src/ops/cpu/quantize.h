// Quantisation of weights. nf4, fp4 and int8 give the codes and scales that bitsandbytes 0.50.1 computes on a CPU.
// Inputs must be finite.
#pragma once

#include "ops/cpu/narrow.h"

namespace rankfold::cpu {
namespace {

constexpr int64_t kNibbleRun = 256;   // elements whose codes are computed at a time
constexpr int64_t kProductRun = 256;  // products that are computed before they are rounded

inline float largest_magnitude(const float* x, int64_t count) {
  float most = 0;
#pragma omp simd reduction(max : most)
  for (int64_t j = 0; j < count; ++j) {
    const float magnitude = x[j] < 0 ? -x[j] : x[j];
    most = magnitude > most ? magnitude : most;
  }
  return most;
}

// As bitsandbytes does, it multiplies the numbers of a whole block by the reciprocal of the scale. In a shorter last
// block it divides them by the scale.
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

// A function of its own: the compiler may otherwise fuse the product with the sum that rounds it to an integer.
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

// The scale is at least the smallest normal number, so that x / scale is precise enough for the steps of E4M3.
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
