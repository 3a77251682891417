// Conversions between fp32 and 16- or 8-bit floats, without branches, so that loops vectorise. They round to nearest
// even, and give the same bits with every instruction set. Results are the same on a processor that treats subnormal
// fp32 numbers as zero.
#pragma once

#include "kernels/packed.h"
#include "ops/cpu/simd.h"

namespace rankfold::cpu {
namespace {

inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}
inline float from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
constexpr uint32_t kSign = 0x80000000, kInfinity = 0x7f800000, kQuiet = 0x00400000;
// Compares as signed integers, which every vector unit can do; magnitudes have no sign bit.
inline bool is_below(uint32_t magnitude, uint32_t limit) {
  return static_cast<int32_t>(magnitude) < static_cast<int32_t>(limit);
}

struct F16 {
  uint16_t bits;
};
inline float load(F16 x) {
  const uint32_t bits = x.bits, magnitude = (bits & 0x7fff) << 13, sign = (bits & 0x8000) << 16;
  const uint32_t normal = magnitude + (112u << 23);
  // Subnormal: the bits count steps of 2^-24. As the fraction of 2^-14 they give 2^-14 + value; then 2^-14 is
  // subtracted.
  const uint32_t small = bits_of(from_bits(magnitude | 113u << 23) - 0x1p-14f);
  const uint32_t finite = is_below(magnitude, 1u << 23) ? small : normal;
  return from_bits(sign | (is_below(magnitude, 31u << 23) ? finite : magnitude | kInfinity));
}

// Rounds to a value of bf16, or of f16.
inline float round_bf16(float x) {
  const uint32_t bits = bits_of(x), rounded = bits + 0x7fff + (bits >> 16 & 1);
  return from_bits((x != x ? bits | kQuiet : rounded) & 0xffff0000);
}
inline float round_f16(float x) {
  const uint32_t bits = bits_of(x), magnitude = bits & ~kSign;
  const uint32_t normal = (magnitude + 0xfff + (magnitude >> 13 & 1)) & ~0x1fffu;
  const uint32_t small = bits_of((from_bits(magnitude) + 0.5f) - 0.5f);  // numbers from 0.5 to 1 are 2^-24 apart
  const uint32_t finite = is_below(magnitude, 113u << 23) ? small : is_below(normal, 143u << 23) ? normal : kInfinity;
  return from_bits((bits & kSign) | (x != x ? kInfinity | kQuiet : finite));
}

// E4M3: 1 bit of sign, 4 of exponent, 3 of fraction; the largest is 448, all ones is NaN, there is no infinity.
constexpr float kLargestE4M3 = 448;
inline float from_e4m3(uint32_t code) {
  const uint32_t magnitude = code & 0x7f, sign = (code & 0x80) << 24;
  const uint32_t step = magnitude << 20, normal = step + (120u << 23);
  const uint32_t small = bits_of(from_bits(step | 121u << 23) - 0x1p-6f);
  const uint32_t finite = is_below(magnitude, 8) ? small : normal;
  return from_bits(sign | (magnitude == 0x7f ? kInfinity | kQuiet : finite));
}
// Magnitudes above 448 become 448. x must not be NaN.
inline uint8_t to_e4m3(float x) {
  const uint32_t bits = bits_of(x), given = bits & ~kSign, largest = bits_of(kLargestE4M3);
  const uint32_t magnitude = is_below(given, largest) ? given : largest;
  const uint32_t normal = ((magnitude + 0x7ffff + (magnitude >> 20 & 1)) >> 20) - (120u << 3);
  // fp32 numbers from 2^14 on are 2^-9 apart, like the subnormal numbers of E4M3.
  const uint32_t small = bits_of(from_bits(magnitude) + 0x1p14f) - bits_of(0x1p14f);
  return static_cast<uint8_t>((bits >> 24 & 0x80) | (is_below(magnitude, 121u << 23) ? small : normal));
}

// y = x rounded to `rounded`, then to T. y may be x.
template <class T, class F>
inline void narrow_by(const float* x, int64_t n, T* y, F&& round) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) store(y[j], round(x[j]));
}
template <class F>
inline void narrow_by(const float* x, int64_t n, Bf16* y, F&& round) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) y[j].bits = static_cast<uint16_t>(bits_of(round_bf16(round(x[j]))) >> 16);
}
template <class T>
inline void narrow_all(const float* x, int64_t n, kernels::Dtype rounded, T* y) {
  if (rounded == kernels::Dtype::f16) return narrow_by(x, n, y, [](float value) { return round_f16(value); });
  if (rounded == kernels::Dtype::bf16 && sizeof(T) != sizeof(Bf16))
    return narrow_by(x, n, y, [](float value) { return round_bf16(value); });
  if (static_cast<const void*>(x) != y) narrow_by(x, n, y, [](float value) { return value; });
}

}  // namespace
}  // namespace rankfold::cpu
