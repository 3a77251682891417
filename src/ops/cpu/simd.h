// Scalars and vectors of one instruction set, for the files that are compiled once for each (see loops.cpp).
// Everything is in an unnamed namespace, and no shared inline function is used. Otherwise the linker might keep the
// copy that was compiled for a wider instruction set, and every processor would run it.
#pragma once

#include "ops/cpu/loops.h"

#include <math.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define RANKFOLD_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define RANKFOLD_VECTOR_BYTES 32
#else
#define RANKFOLD_VECTOR_BYTES 16
#endif

namespace rankfold::cpu {
namespace {

// Sums of double tensors are double, so that tests can check gradients by finite differences.
template <class T>
using Sum = typename SumOf<T>::type;

inline float load(float x) { return x; }
inline double load(double x) { return x; }
inline float load(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
inline void store(float& y, float x) { y = x; }
inline void store(double& y, double x) { y = x; }
// Rounds to nearest even. A NaN from arithmetic or from 16-bit values stays NaN: its low bits are zero, so the addition
// does not carry.
inline void store(Bf16& y, float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  y.bits = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// exp within 2 units in the last place: 2^n * e^r, |r| <= ln(2) / 2, Taylor to r^7. Inlined so that loops vectorise.
// Returns 0 where the result would be subnormal: arithmetic on subnormal numbers is many times slower.
inline float exponential(float x) {
  const bool vanishes = x < -87.3f;
  x = vanishes ? -87.3f : x;
  x = x > 88.3f ? 88.3f : x;
  const float shifted = x * 1.44269504f + 12582912.0f;  // adding 1.5 * 2^23 rounds to an integer
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.98412698e-4f;
  p = p * r + 1.38888889e-3f;
  p = p * r + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  int32_t bits;
  memcpy(&bits, &shifted, 4);
  bits = (bits - 0x4b400000 + 127) << 23;
  float power;
  memcpy(&power, &bits, 4);
  return vanishes ? 0.0f : p * power;
}
inline double exponential(double x) { return ::exp(x); }
inline float square_root(float x) { return ::sqrtf(x); }
inline double square_root(double x) { return ::sqrt(x); }

// y = x
inline void store_all(float* y, const float* x, int64_t n) { memcpy(y, x, static_cast<size_t>(n) * sizeof *x); }
inline void store_all(double* y, const double* x, int64_t n) { memcpy(y, x, static_cast<size_t>(n) * sizeof *x); }
inline void store_all(Bf16* y, const float* x, int64_t n) {
  int64_t j = 0;
#if defined(__AVX512BF16__)  // compilers do not use this instruction by themselves
  for (; j + 32 <= n; j += 32) {
    const __m512bh rounded = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + j + 16), _mm512_loadu_ps(x + j));
    memcpy(y + j, &rounded, sizeof rounded);
  }
#endif
#pragma omp simd
  for (int64_t i = j; i < n; ++i) store(y[i], x[i]);
}

// y[j] = f(j) for j below n; y may be what f reads at j. bfloat16 is rounded a block of sums at a time.
constexpr int64_t kBlock = 32;
template <class T, class F>
inline void store_each(T* y, int64_t n, F&& f) {
  int64_t begin = 0;
  if constexpr (sizeof(T) == 2) {
    for (; begin + kBlock <= n; begin += kBlock) {
      alignas(64) Sum<T> sums[kBlock];
#pragma omp simd
      for (int64_t j = 0; j < kBlock; ++j) sums[j] = f(begin + j);
      store_all(y + begin, sums, kBlock);
    }
  }
#pragma omp simd
  for (int64_t j = begin; j < n; ++j) store(y[j], f(j));
}

constexpr int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }
constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

typedef float FloatVector __attribute__((vector_size(RANKFOLD_VECTOR_BYTES)));
typedef double DoubleVector __attribute__((vector_size(RANKFOLD_VECTOR_BYTES)));
typedef uint32_t PairVector __attribute__((vector_size(RANKFOLD_VECTOR_BYTES)));

// A word is the unit that a product multiplies: kGroup neighbouring elements along the summed axis. With AVX512-BF16 a
// word is a pair of bfloat16; otherwise it is one element in the type of the sums.
template <class T>
struct Word {
  using type = Sum<T>;
  using Element = Sum<T>;
  static constexpr int kGroup = 1;
};
template <class S>
struct VectorOf;
template <>
struct VectorOf<float> {
  using type = FloatVector;
};
template <>
struct VectorOf<double> {
  using type = DoubleVector;
};
template <>
struct VectorOf<uint32_t> {
  using type = PairVector;
};
template <class S>
using Vector = typename VectorOf<S>::type;
template <class T>
constexpr int64_t kLanes = RANKFOLD_VECTOR_BYTES / sizeof(Sum<T>);  // of sums, and of words

template <class S>
inline Vector<S> load_vector(const S* x) {
  Vector<S> value;
  memcpy(&value, x, sizeof value);
  return value;
}
template <class S>
inline void store_vector(S* y, const Vector<S>& x) {
  memcpy(y, &x, sizeof x);
}
template <class S>
inline Vector<S> broadcast(S x) {
  return x - Vector<S>{};  // compilers know that x - 0 is x
}

inline FloatVector multiply_add(FloatVector a, FloatVector b, FloatVector c) { return a * b + c; }
inline DoubleVector multiply_add(DoubleVector a, DoubleVector b, DoubleVector c) { return a * b + c; }

#if defined(__AVX512BF16__)
template <>
struct Word<Bf16> {
  using type = uint32_t;
  using Element = Bf16;
  static constexpr int kGroup = 2;
};
inline FloatVector multiply_add(PairVector a, PairVector b, FloatVector c) {
  return (FloatVector)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
}
#endif

template <class T>
using WordOf = typename Word<T>::type;
template <class T>
constexpr int64_t kGroup = Word<T>::kGroup;

// A word of one element, or of two neighbours along the summed axis.
inline void make_word(float& w, float x, float) { w = x; }
inline void make_word(float& w, Bf16 x, Bf16) { w = load(x); }
inline void make_word(double& w, double x, double) { w = x; }
inline void make_word(uint32_t& w, Bf16 x, Bf16 y) {
  w = static_cast<uint32_t>(x.bits) | static_cast<uint32_t>(y.bits) << 16;
}
inline void make_word(uint32_t& w, float x, float y) {
  Bf16 low, high;
  store(low, x), store(high, y);
  make_word(w, low, high);
}

}  // namespace
}  // namespace rankfold::cpu
