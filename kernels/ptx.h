// Every PTX instruction that the kernels use, each beside C++ code for the host that computes the same. The C++ follows
// the PTX manual; tests/gpu compares both on a device.
#pragma once

#include "kernels/device.h"

#include <math.h>
#include <string.h>
#include <type_traits>

namespace rankfold::kernels {

__device__ __forceinline__ uint32_t bits_of(float x) {
#if defined(__CUDACC__)
  return __float_as_uint(x);
#else
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
#endif
}
__device__ __forceinline__ float float_of(uint32_t bits) {
#if defined(__CUDACC__)
  return __uint_as_float(bits);
#else
  float x;
  memcpy(&x, &bits, 4);
  return x;
#endif
}

// ---- Memory. Addresses must be aligned to the access size; the host version checks it.

#if !defined(__CUDACC__)
template <class W>
inline const void* aligned(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(W) != 0) simt::fail("vector access to an address that is not aligned");
  return p;
}
#endif

template <class W>
__device__ __forceinline__ W load_words(const void* p) {
#if defined(__CUDACC__)
  if constexpr (sizeof(W) == 16) {
    const uint4 v = *static_cast<const uint4*>(p);
    return {v.x, v.y, v.z, v.w};
  } else {
    const uint2 v = *static_cast<const uint2*>(p);
    return {v.x, v.y};
  }
#else
  W words;
  memcpy(&words, aligned<W>(p), sizeof(W));
  return words;
#endif
}

__device__ __forceinline__ uint32_t load_word(const void* p) {
#if defined(__CUDACC__)
  return *static_cast<const uint32_t*>(p);
#else
  uint32_t word;
  memcpy(&word, aligned<uint32_t>(p), 4);
  return word;
#endif
}

// To global memory.
__device__ __forceinline__ void store_words(void* p, const Word4& w) {
#if defined(__CUDACC__)
  // PTX, because the compiler splits a vector store when its parts become ready at different times.
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(w.x), "r"(w.y), "r"(w.z), "r"(w.w) : "memory");
#else
  memcpy(const_cast<void*>(aligned<Word4>(p)), &w, sizeof(w));
#endif
}

// cp.async of 16 bytes from global to shared memory. The thread itself sees them after wait_copies, other threads after
// a barrier that follows it.
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
#if defined(__CUDACC__)
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
#else
  simt::copy_async(shared, global, 16);
#endif
}
__device__ __forceinline__ void commit_copies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  simt::commit();
#endif
}
// Waits until at most kPending of the thread's committed groups are unfinished.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#else
  simt::wait<kPending>();
#endif
}

// ---- Conversions; they round to nearest even.

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(Bf16 x) { return float_of(uint32_t{x.bits} << 16); }
__device__ __forceinline__ float to_float(F16 x) {
#if defined(__CUDACC__)
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
#else
  const uint32_t sign = uint32_t{x.bits & 0x8000u} << 16, exponent = x.bits >> 10 & 31, fraction = x.bits & 0x3ffu;
  if (exponent == 31) return float_of(sign | 0x7f800000u | fraction << 13);
  if (exponent == 0) {
    const float small = static_cast<float>(fraction) * 0x1p-24f;
    return sign ? -small : small;
  }
  return float_of(sign | (exponent + 112) << 23 | fraction << 13);
#endif
}

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ Bf16 from_float<Bf16>(float x) {
#if defined(__CUDACC__)
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return {bits};
#else
  const uint32_t b = bits_of(x);
  if (x != x) return {0x7fff};
  return {static_cast<uint16_t>((b + 0x7fff + (b >> 16 & 1)) >> 16)};
#endif
}
template <>
__device__ __forceinline__ F16 from_float<F16>(float x) {
#if defined(__CUDACC__)
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return {bits};
#else
  const uint32_t b = bits_of(x), sign = b >> 16 & 0x8000u;
  if (x != x) return {0x7fff};
  const float size = fabsf(x);
  if (size >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00u)};
  if (size < 0x1p-14f) {  // subnormal: a multiple of 2^-24; nearbyint rounds to even
    return {static_cast<uint16_t>(sign | static_cast<uint32_t>(nearbyintf(size * 0x1p24f)))};
  }
  const uint32_t s = b & 0x7fffffffu;
  return {static_cast<uint16_t>(sign | ((s - 0x38000000u + 0xfffu + (s >> 13 & 1)) >> 13))};
#endif
}

// Two elements in a word, the first in the low half.
template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high) {
#if defined(__CUDACC__)
  uint32_t word;
  if constexpr (std::is_same_v<T, Bf16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  }
  return word;
#else
  return uint32_t{from_float<T>(low).bits} | uint32_t{from_float<T>(high).bits} << 16;
#endif
}

// e^x and 1 / x for results that are then rounded to 16 bits: relative error about (2 + |x|) eps and eps of fp32.
// Subnormals count as zero.
__device__ __forceinline__ float fast_exp(float x) {
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504f));
  return y;
#else
  return exp2f(x * 1.44269504f);
#endif
}
__device__ __forceinline__ float fast_reciprocal(float x) {
#if defined(__CUDACC__)
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1 / x;
#endif
}

// tf32: fp32 with 10 bits of fraction, rounded to nearest, ties away from zero.
__device__ __forceinline__ float to_tf32(float x) {
#if defined(__CUDACC__)
  uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return __uint_as_float(y);
#else
  const uint32_t b = bits_of(x);
  if ((b & 0x7f800000u) == 0x7f800000u) return x;
  return float_of((b + 0x1000u) & ~0x1fffu);
#endif
}

// ---- Tensor cores. Lane l of the warp is (group g = l / 4, t = l % 4).

// c += a b, m16n8k16. a: rows g, g + 8, columns 2t, 2t + 1 and 2t + 8, 2t + 9; b: the same of rows of column g; c: rows
// g, g + 8, columns 2t, 2t + 1.
template <class T>
__device__ __forceinline__ void mma_k16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                        uint32_t b1) {
#if defined(__CUDACC__)
  if constexpr (std::is_same_v<T, Bf16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
#else
  struct Mine {
    uint32_t a[4], b[2];
  };
  const Mine* all = simt::exchange(Mine{{a0, a1, a2, a3}, {b0, b1}});
  const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
  const auto half = [](uint32_t word, int i) {
    return to_float(T{static_cast<uint16_t>(i ? word >> 16 : word & 0xffffu)});
  };
  for (int i = 0; i < 4; ++i) {
    const int row = g + 8 * (i / 2), column = 2 * t + i % 2;
    float sum = c[i];
    for (int k = 0; k < 16; ++k) {
      const int owner = k % 8 / 2, upper = k / 8;
      const float a = half(all[row % 8 * 4 + owner].a[row / 8 + 2 * upper], k % 2);
      const float b = half(all[column * 4 + owner].b[upper], k % 2);
      sum = fmaf(a, b, sum);
    }
    c[i] = sum;
  }
#endif
}

// c += a b, m16n8k8 of tf32. a: rows g, g + 8, columns t, t + 4; b: rows t, t + 4 of column g; c as above.
__device__ __forceinline__ void mma_k8(float (&c)[4], float a0, float a1, float a2, float a3, float b0, float b1) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(bits_of(a0)), "r"(bits_of(a1)), "r"(bits_of(a2)), "r"(bits_of(a3)), "r"(bits_of(b0)), "r"(bits_of(b1)));
#else
  struct Mine {
    float a[4], b[2];
  };
  const Mine* all = simt::exchange(Mine{{a0, a1, a2, a3}, {b0, b1}});
  const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + 8 * (i / 2), column = 2 * t + i % 2;
    float sum = c[i];
    for (int k = 0; k < 8; ++k)
      sum = fmaf(all[row % 8 * 4 + k % 4].a[row / 8 + 2 * (k / 4)], all[column * 4 + k % 4].b[k / 4], sum);
    c[i] = sum;
  }
#endif
}

// Transposes an 8 x 8 matrix of 16-bit elements. Lane (g, t) has row g, columns 2t and 2t + 1, before and after.
__device__ __forceinline__ uint32_t transpose_8x8(uint32_t word) {
#if defined(__CUDACC__)
  uint32_t turned;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned) : "r"(word));
  return turned;
#else
  const uint32_t* all = simt::exchange(word);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
  const auto element = [&](int row, int column) {
    const uint32_t w = all[row * 4 + column / 2];
    return column % 2 ? w >> 16 : w & 0xffffu;
  };
  return element(2 * t, g) | element(2 * t + 1, g) << 16;
#endif
}

}  // namespace rankfold::kernels
