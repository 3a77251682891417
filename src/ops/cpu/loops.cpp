// Compiled once per instruction set (CMakeLists.txt) with RANKFOLD_LOOPS = baseline, avx2 or avx512. Everything is in
// an unnamed namespace and no shared inline function is used: one compiled with wider instructions could otherwise be
// the copy that the linker keeps for everybody.
#include "ops/cpu/loops.h"

#include <math.h>
#include <string.h>

namespace rankfold::cpu {
namespace {

// Sums of double tensors are double, so that finite differences in double see the exact formulas.
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
inline void store(Bf16& y, float x) {  // round to nearest even
  uint32_t bits;
  memcpy(&bits, &x, 4);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  y.bits = static_cast<uint16_t>(x != x ? 0x7fc0 : rounded);
}

// exp within 2 units in the last place: 2^n * e^r, |r| <= ln(2) / 2, Taylor to r^7. Inlined so that loops vectorise.
inline float exponential(float x) {
  x = x < -87.3f ? -87.3f : x;
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
  return p * power;
}
inline double exponential(double x) { return ::exp(x); }
inline float square_root(float x) { return ::sqrtf(x); }
inline double square_root(double x) { return ::sqrt(x); }

template <class T>
void rms_norm(const T* x, const T* g, double eps, int64_t m, int64_t k, T* y, Sum<T>* rstd_m) {
  for (int64_t i = 0; i < m; ++i, x += k, y += k) {
    Sum<T> sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < k; ++j) sum += load(x[j]) * load(x[j]);
    const Sum<T> rstd = 1 / square_root(sum / static_cast<Sum<T>>(k) + static_cast<Sum<T>>(eps));
    rstd_m[i] = rstd;
#pragma omp simd
    for (int64_t j = 0; j < k; ++j) store(y[j], load(x[j]) * rstd * load(g[j]));
  }
}

template <class T>
void rms_norm_backward(const T* dy, const T* x, const T* g, const Sum<T>* rstd_m, const T* residual, int64_t m,
                       int64_t k, T* dx, Sum<T>* dg) {
  for (int64_t i = 0; i < m; ++i, dy += k, x += k, dx += k) {
    Sum<T> rstd = rstd_m[i], dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t j = 0; j < k; ++j) dot += load(dy[j]) * load(g[j]) * load(x[j]);
    const Sum<T> c = dot * rstd * rstd * rstd / static_cast<Sum<T>>(k);
    if (dg) {
#pragma omp simd
      for (int64_t j = 0; j < k; ++j) dg[j] += load(dy[j]) * load(x[j]) * rstd;
    }
    if (residual) {
#pragma omp simd
      for (int64_t j = 0; j < k; ++j)
        store(dx[j], load(residual[j]) + (load(dy[j]) * load(g[j]) * rstd - load(x[j]) * c));
      residual += k;
    } else {
#pragma omp simd
      for (int64_t j = 0; j < k; ++j) store(dx[j], load(dy[j]) * load(g[j]) * rstd - load(x[j]) * c);
    }
  }
}

template <class T>
void swiglu(const T* gate_up, int64_t m, int64_t k, T* y) {
  for (int64_t i = 0; i < m; ++i, gate_up += 2 * k, y += k) {
    const T* up = gate_up + k;
#pragma omp simd
    for (int64_t j = 0; j < k; ++j) {
      const Sum<T> a = load(gate_up[j]);
      store(y[j], a / (1 + exponential(-a)) * load(up[j]));
    }
  }
}

template <class T>
void swiglu_backward(const T* dy, const T* gate_up, int64_t m, int64_t k, T* dgate_up) {
  for (int64_t i = 0; i < m; ++i, dy += k, gate_up += 2 * k, dgate_up += 2 * k) {
    const T* up = gate_up + k;
    T* dup = dgate_up + k;
#pragma omp simd
    for (int64_t j = 0; j < k; ++j) {
      const Sum<T> a = load(gate_up[j]), d = load(dy[j]);
      const Sum<T> sigmoid = 1 / (1 + exponential(-a));
      store(dgate_up[j], d * load(up[j]) * sigmoid * (1 + a * (1 - sigmoid)));
      store(dup[j], d * a * sigmoid);
    }
  }
}

template <class T>
void rope(T* x, int64_t pitch, const int64_t* position, const float* cos, const float* sin, int64_t m, int64_t heads,
          int64_t d, float sign) {
  const int64_t half = d / 2;
  for (int64_t i = 0; i < m; ++i, x += pitch) {
    const float* c = cos + position[i] * half;
    const float* s = sin + position[i] * half;
    for (int64_t h = 0; h < heads; ++h) {
      T* a = x + h * d;
      T* b = a + half;
#pragma omp simd
      for (int64_t j = 0; j < half; ++j) {
        const Sum<T> u = load(a[j]), v = load(b[j]), sine = sign * s[j];
        store(a[j], u * c[j] - v * sine);
        store(b[j], v * c[j] + u * sine);
      }
    }
  }
}

// Draws for kLanes * 8 neighbouring features: one Philox block gives 8 draws of 16 bits, low half of a word first.
constexpr int kLanes = 16;
constexpr int64_t kChunk = kLanes * 8;

inline void philox(const DropoutCounters& c, int64_t i, uint32_t first_block, uint16_t* draws) {
  uint32_t w0[kLanes], w1[kLanes], w2[kLanes], w3[kLanes];
  const uint32_t row = static_cast<uint32_t>(c.row[i]), position = static_cast<uint32_t>(c.position[i]);
#pragma omp simd
  for (int l = 0; l < kLanes; ++l) {
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
  for (int l = 0; l < kLanes; ++l) {
    const uint32_t words[4] = {w0[l], w1[l], w2[l], w3[l]};
    for (int j = 0; j < 4; ++j) {
      draws[l * 8 + 2 * j] = static_cast<uint16_t>(words[j]);
      draws[l * 8 + 2 * j + 1] = static_cast<uint16_t>(words[j] >> 16);
    }
  }
}

template <bool kAdd, class T>
void dropout_rows(const T* x, const DropoutCounters& c, int64_t m, int64_t k, T* y) {
  alignas(64) uint16_t draws[kChunk];
  const Sum<T> scale = c.scale;
  for (int64_t i = 0; i < m; ++i, x += k, y += k) {
    for (int64_t begin = 0; begin < k; begin += kChunk) {
      philox(c, i, static_cast<uint32_t>(begin / 8), draws);
      const int64_t n = k - begin < kChunk ? k - begin : kChunk;
      const T* from = x + begin;
      T* to = y + begin;
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) {
        const Sum<T> kept = draws[j] >= c.threshold ? load(from[j]) * scale : Sum<T>(0);
        store(to[j], kAdd ? load(to[j]) + kept : kept);
      }
    }
  }
}

template <class T>
void cross_entropy(T* x, const int64_t* label, int64_t m, int64_t v, bool gradient, double* loss) {
  for (int64_t i = 0; i < m; ++i, x += v) {
    Sum<T> largest = load(x[0]), sum = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t j = 0; j < v; ++j) largest = load(x[j]) > largest ? load(x[j]) : largest;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < v; ++j) sum += exponential(load(x[j]) - largest);
    loss[i] = ::log(static_cast<double>(sum)) + static_cast<double>(largest) - static_cast<double>(load(x[label[i]]));
    if (!gradient) continue;
    const Sum<T> inverse = 1 / sum;
    const Sum<T> at_label = exponential(load(x[label[i]]) - largest) * inverse;
#pragma omp simd
    for (int64_t j = 0; j < v; ++j) store(x[j], exponential(load(x[j]) - largest) * inverse);
    store(x[label[i]], at_label - 1);
  }
}

template <class T>
constexpr LoopTable<T> table() {
  return {.rms_norm = rms_norm<T>,
          .rms_norm_backward = rms_norm_backward<T>,
          .swiglu = swiglu<T>,
          .swiglu_backward = swiglu_backward<T>,
          .rope = rope<T>,
          .dropout = dropout_rows<false, T>,
          .dropout_add = dropout_rows<true, T>,
          .cross_entropy = cross_entropy<T>};
}

}  // namespace

#define RANKFOLD_NAME_2(name) loops_##name
#define RANKFOLD_NAME(name) RANKFOLD_NAME_2(name)
#define RANKFOLD_TEXT_2(name) #name
#define RANKFOLD_TEXT(name) RANKFOLD_TEXT_2(name)
extern const Loops RANKFOLD_NAME(RANKFOLD_LOOPS);
const Loops RANKFOLD_NAME(RANKFOLD_LOOPS) = {RANKFOLD_TEXT(RANKFOLD_LOOPS), table<float>(), table<Bf16>(),
                                             table<double>()};

}  // namespace rankfold::cpu
