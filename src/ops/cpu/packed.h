// Decoding of weights in fewer bits (kernels/packed.h) to T. Values are fp32 until they are rounded. Four bits are
// looked up in a table of the 16 values of their block or group.
#pragma once

#include "ops/cpu/narrow.h"

namespace rankfold::cpu {
namespace {

constexpr int64_t kDecodeRun = 512;  // elements that are decoded to fp32 at a time; they fit the L1 cache

// to[j] = values[4-bit code of element begin + j], j below `count`. look_up_vectors does a multiple of kLookUp elements
// and returns how many.
#if defined(__AVX2__)
constexpr int64_t kLookUp = 32;

// The 4-bit codes (nibbles) of 16 bytes, one in each byte, in the order of the elements.
struct Nibbles {
  __m128i first, second;
};
template <bool kLowFirst>
inline Nibbles nibbles_of(const uint8_t* codes) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)), mask = _mm_set1_epi8(15);
  const __m128i low = _mm_and_si128(bytes, mask), high = _mm_and_si128(_mm_srli_epi16(bytes, 4), mask);
  const __m128i a = kLowFirst ? low : high, b = kLowFirst ? high : low;
  return {_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b)};
}
// Calls put(16 nibbles, y) for all whole groups of kLookUp elements; returns the number of elements done.
template <bool kLowFirst, class T, class F>
inline int64_t for_nibbles(const uint8_t* codes, int64_t count, T* to, F&& put) {
  int64_t j = 0;
  for (; j + kLookUp <= count; j += kLookUp, codes += kLookUp / 2) {
    const Nibbles nibbles = nibbles_of<kLowFirst>(codes);
    put(nibbles.first, to + j);
    put(nibbles.second, to + j + 16);
  }
  return j;
}

template <bool kLowFirst>
inline int64_t look_up_vectors(const uint8_t* codes, int64_t count, const float* values, float* to) {
#if defined(__AVX512F__)
  const __m512 table = _mm512_loadu_ps(values);
  const auto put = [&](__m128i nibbles, float* y) {
    _mm512_storeu_ps(y, _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(nibbles), table));
  };
#else
  const __m256 table = _mm256_loadu_ps(values), upper = _mm256_loadu_ps(values + 8);
  const auto put_half = [&](__m128i nibbles, float* y) {
    const __m256i index = _mm256_cvtepu8_epi32(nibbles);  // a permutation reads three bits of it, the fourth chooses
    _mm256_storeu_ps(y, _mm256_blendv_ps(_mm256_permutevar8x32_ps(table, index), _mm256_permutevar8x32_ps(upper, index),
                                         _mm256_castsi256_ps(_mm256_slli_epi32(index, 28))));
  };
  const auto put = [&](__m128i nibbles, float* y) {
    put_half(nibbles, y);
    put_half(_mm_srli_si128(nibbles, 8), y + 8);
  };
#endif
  return for_nibbles<kLowFirst>(codes, count, to, put);
}
// Looks up the low and the high bytes of 16-bit values separately.
template <bool kLowFirst>
inline int64_t look_up_vectors(const uint8_t* codes, int64_t count, const Bf16* values, Bf16* to) {
  const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
  const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values + 8)), mask = _mm_set1_epi16(255);
  const __m128i low = _mm_packus_epi16(_mm_and_si128(a, mask), _mm_and_si128(b, mask));
  const __m128i high = _mm_packus_epi16(_mm_srli_epi16(a, 8), _mm_srli_epi16(b, 8));
  const auto put = [&](__m128i nibbles, Bf16* y) {
    const __m128i lows = _mm_shuffle_epi8(low, nibbles), highs = _mm_shuffle_epi8(high, nibbles);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y), _mm_unpacklo_epi8(lows, highs));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y + 8), _mm_unpackhi_epi8(lows, highs));
  };
  return for_nibbles<kLowFirst>(codes, count, to, put);
}
#endif
template <bool kLowFirst, class T>
inline int64_t look_up_vectors(const uint8_t*, int64_t, const T*, T*) {
  return 0;
}

template <bool kLowFirst, class T>
inline void look_up(const uint8_t* codes, int64_t begin, int64_t count, const T* values, T* to) {
  constexpr int kFirst = kLowFirst ? 0 : 4, kSecond = 4 - kFirst;  // by how many bits
  codes += begin / 2;
  if (begin % 2 != 0 && count > 0) {
    *to++ = values[*codes++ >> kSecond & 15];
    --count;
  }
  int64_t j = look_up_vectors<kLowFirst>(codes, count, values, to);
  for (; j + 2 <= count; j += 2) {
    const uint8_t pair = codes[j / 2];
    to[j] = values[pair >> kFirst & 15];
    to[j + 1] = values[pair >> kSecond & 15];
  }
  if (j < count) to[j] = values[codes[j / 2] >> kFirst & 15];
}

inline float block_scale(const kernels::Packed& w, int64_t block) {
  if (!w.nested_codes) return w.scale[block];
  // volatile, because the compiler may otherwise fuse product and sum into one operation, which rounds once.
  volatile float product = w.nested_table[w.nested_codes[block]] * w.scale[block / w.nested_block];
  return product + w.offset;
}

template <class T>
void decode_table(const kernels::Packed& w, int64_t row, int64_t first, int64_t last, T* to) {
  const uint8_t* codes = static_cast<const uint8_t*>(w.codes);
  const int64_t end = row * w.k + last;
  int64_t i = row * w.k + first, block = i / w.block;
  for (; i < end; ++block) {
    const int64_t count = least(end, (block + 1) * w.block) - i;
    const float scale = block_scale(w, block);
    alignas(64) float products[16];
    alignas(64) T values[16];
#pragma omp simd
    for (int64_t j = 0; j < 16; ++j) products[j] = w.table[j] * scale;
    narrow_all(products, 16, w.rounded, values);
    look_up<false>(codes, i, count, values, to);
    i += count, to += count;
  }
}

// Decodes columns [first, last) of a row with f(begin, count, y), which writes fp32 values. No call crosses a group of
// `shared` columns (0: one group).
template <class T, class F>
inline void decode_runs(const kernels::Packed& w, int64_t first, int64_t last, int64_t shared, T* to, F&& f) {
  alignas(64) float values[kDecodeRun];
  for (int64_t begin = first; begin < last;) {
    int64_t end = least(last, begin + kDecodeRun);
    if (shared > 0) end = least(end, (begin / shared + 1) * shared);
    const int64_t count = end - begin;
    if constexpr (sizeof(T) == 4) {
      f(begin, count, to);
      narrow_all(to, count, w.rounded, to);
    } else {
      f(begin, count, values);
      narrow_all(values, count, w.rounded, to);
    }
    begin = end, to += count;
  }
}

inline const float* scales_of(const kernels::Packed& w, int64_t row) {
  return w.scale + row / w.scale_rows * w.ld_scale;
}
inline int64_t group_at(const kernels::Packed& w, int64_t column) {
  return w.scale_columns > 0 ? column / w.scale_columns : 0;
}

template <class T>
void decode_int8(const kernels::Packed& w, int64_t row, int64_t first, int64_t last, T* to) {
  const int8_t* codes = static_cast<const int8_t*>(w.codes) + row * w.k;
  decode_runs(w, first, last, w.scale_columns, to, [&](int64_t begin, int64_t count, float* y) {
    const float scale = scales_of(w, row)[group_at(w, begin)];
#pragma omp simd
    for (int64_t j = 0; j < count; ++j) y[j] = static_cast<float>(codes[begin + j]) * scale * kernels::kInt8Unit;
  });
}

template <class T>
void decode_fp8(const kernels::Packed& w, int64_t row, int64_t first, int64_t last, T* to) {
  const uint8_t* codes = static_cast<const uint8_t*>(w.codes) + row * w.k;
  decode_runs(w, first, last, w.scale_columns, to, [&](int64_t begin, int64_t count, float* y) {
    const float scale = scales_of(w, row)[group_at(w, begin)];
    // Widens first: compilers otherwise compute on bytes as long as they can, and widen each part of the result.
    alignas(64) uint32_t wide[kDecodeRun];
#pragma omp simd
    for (int64_t j = 0; j < count; ++j) wide[j] = codes[begin + j];
#pragma omp simd
    for (int64_t j = 0; j < count; ++j) y[j] = from_e4m3(wide[j]) * scale;
  });
}

// Groups of consecutive columns.
template <class T>
void decode_groups(const kernels::Packed& w, int64_t row, int64_t first, int64_t last, T* to) {
  const uint8_t* codes = static_cast<const uint8_t*>(w.codes) + row * w.ld_codes;
  const uint8_t* zeros = w.zero + row / w.scale_rows * w.ld_scale;
  if (w.bits == 8) {
    return decode_runs(w, first, last, w.scale_columns, to, [&](int64_t begin, int64_t count, float* y) {
      const int64_t group = group_at(w, begin);
      const float scale = scales_of(w, row)[group];
      const int32_t zero = zeros[group];
#pragma omp simd
      for (int64_t j = 0; j < count; ++j) y[j] = static_cast<float>(codes[begin + j] - zero) * scale;
    });
  }
  for (int64_t begin = first; begin < last;) {
    const int64_t group = group_at(w, begin);
    const int64_t end = w.scale_columns > 0 ? least(last, (group + 1) * w.scale_columns) : last;
    const float scale = scales_of(w, row)[group];
    alignas(64) float products[16];
    alignas(64) T values[16];
#pragma omp simd
    for (int32_t j = 0; j < 16; ++j) products[j] = static_cast<float>(j - zeros[group]) * scale;
    narrow_all(products, 16, w.rounded, values);
    look_up<true>(codes, begin, end - begin, values, to);
    to += end - begin, begin = end;
  }
}
// Columns belong to groups in any order (group_of).
template <class T>
void decode_scattered(const kernels::Packed& w, int64_t row, int64_t first, int64_t last, T* to) {
  const uint8_t* codes = static_cast<const uint8_t*>(w.codes) + row * w.ld_codes;
  const uint8_t* zeros = w.zero + row / w.scale_rows * w.ld_scale;
  const float* scales = scales_of(w, row);
  decode_runs(w, first, last, 0, to, [&](int64_t begin, int64_t count, float* y) {
    for (int64_t j = 0; j < count; ++j) {
      const int64_t column = begin + j;
      const int32_t code = w.bits == 8 ? codes[column] : codes[column / 2] >> 4 * (column % 2) & 15;
      const int32_t group = w.group_of[column];
      y[j] = static_cast<float>(code - zeros[group]) * scales[group];
    }
  });
}

template <class T, class Stored>
void decode_plain(const kernels::Packed& w, int64_t row, int64_t first, int64_t last, T* to) {
  const Stored* stored = static_cast<const Stored*>(w.codes) + row * w.k;
  decode_runs(w, first, last, 0, to, [&](int64_t begin, int64_t count, float* y) {
#pragma omp simd
    for (int64_t j = 0; j < count; ++j) y[j] = load(stored[begin + j]);
  });
}

template <class T>
auto decoder_of(const kernels::Packed& w) {
  using kernels::Dtype;
  switch (w.packing) {
    case kernels::Packing::table:
      return decode_table<T>;
    case kernels::Packing::int8:
      return decode_int8<T>;
    case kernels::Packing::fp8:
      return decode_fp8<T>;
    case kernels::Packing::grouped:
      return w.group_of ? decode_scattered<T> : decode_groups<T>;
    default:
      return w.stored == Dtype::f32    ? decode_plain<T, float>
             : w.stored == Dtype::bf16 ? decode_plain<T, Bf16>
                                       : decode_plain<T, F16>;
  }
}

template <class T>
void decode(const kernels::Packed& w, int64_t begin, int64_t end, int64_t first, int64_t last, T* to, int64_t pitch) {
  const auto decode_row = decoder_of<T>(w);
  for (int64_t row = begin; row < end; ++row, to += pitch) decode_row(w, row, first, last, to);
}

}  // namespace
}  // namespace rankfold::cpu
