// The tile that all matrix kernels work on: a warp has 16 rows x 32 features. Lane (g = lane / 4, t = lane % 4) has the
// eight neighbouring features 8t ... 8t + 7 of rows g and g + 8. In 16 bits that is one 16-byte access a row, and one
// Philox call. It is also an operand of the tensor cores, without shared memory or ldmatrix: the order of the summed
// features is free as long as both operands use the same one. docs/kernels.md, "The tile", has a picture.
#pragma once

#include "kernels/philox.h"
#include "kernels/ptx.h"

namespace rankfold::kernels {

constexpr int kTileRows = 16;
constexpr int kTileFeatures = 32;

template <class T>
constexpr bool kIs16Bit = sizeof(T) == 2;

// N neighbouring elements of a row: N / 2 words of two, or N floats.
template <class T, int N>
struct Row {
  uint32_t word[N / 2];
};
template <int N>
struct Row<float, N> {
  float value[N];
};

struct Lane {
  int g, t, index;
};
__device__ __forceinline__ Lane this_lane() {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  return {lane / 4, lane % 4, lane};
}

template <class T, int N>
__device__ __forceinline__ void unpack(const Row<T, N>& row, float (&x)[N]) {
  if constexpr (kIs16Bit<T>) {
#pragma unroll
    for (int i = 0; i < N; ++i)
      x[i] = to_float(T{static_cast<uint16_t>(i % 2 ? row.word[i / 2] >> 16 : row.word[i / 2] & 0xffffu)});
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = row.value[i];
  }
}
template <class T, int N>
__device__ __forceinline__ Row<T, N> pack_row(const float (&x)[N]) {
  Row<T, N> row;
  if constexpr (kIs16Bit<T>) {
#pragma unroll
    for (int i = 0; i < N / 2; ++i) row.word[i] = pack<T>(x[2 * i], x[2 * i + 1]);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) row.value[i] = x[i];
  }
  return row;
}
template <class T, int N>
__device__ __forceinline__ Row<T, N> zero_row() {
  Row<T, N> row;
  if constexpr (kIs16Bit<T>) {
#pragma unroll
    for (int i = 0; i < N / 2; ++i) row.word[i] = 0;
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) row.value[i] = 0;
  }
  return row;
}

// All N elements from an address that is aligned to them (16 bytes at most).
template <class T, int N>
__device__ __forceinline__ Row<T, N> load_row(const T* p) {
  Row<T, N> row;
  if constexpr (kIs16Bit<T> && N == 8) {
    const Word4 w = load_words<Word4>(p);
    row.word[0] = w.x, row.word[1] = w.y, row.word[2] = w.z, row.word[3] = w.w;
  } else if constexpr (kIs16Bit<T>) {
    static_assert(N == 4);
    const Word2 w = load_words<Word2>(p);
    row.word[0] = w.x, row.word[1] = w.y;
  } else {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const Word4 w = load_words<Word4>(p + i);
      row.value[i] = float_of(w.x), row.value[i + 1] = float_of(w.y);
      row.value[i + 2] = float_of(w.z), row.value[i + 3] = float_of(w.w);
    }
  }
  return row;
}
template <class T>
__device__ __forceinline__ void store_row(T* p, const Row<T, 8>& row) {
  if constexpr (kIs16Bit<T>) {
    store_words(p, {row.word[0], row.word[1], row.word[2], row.word[3]});
  } else {
#pragma unroll
    for (int i = 0; i < 8; i += 4)
      store_words(p + i, {bits_of(row.value[i]), bits_of(row.value[i + 1]), bits_of(row.value[i + 2]),
                          bits_of(row.value[i + 3])});
  }
}

// The first `count` of eight elements, zeros after them; count may be below 0 or above 8. kAligned: p is aligned to 16
// bytes, and count is a multiple of 8.
template <bool kAligned, class T>
__device__ __forceinline__ Row<T, 8> load_some(const T* p, int64_t count) {
  if constexpr (kAligned) {
    return count > 0 ? load_row<T, 8>(p) : zero_row<T, 8>();
  } else {
    float x[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = i < count ? to_float(p[i]) : 0.0f;
    return pack_row<T, 8>(x);
  }
}
template <bool kAligned, class T>
__device__ __forceinline__ void store_some(T* p, const Row<T, 8>& row, int64_t count) {
  if constexpr (kAligned) {
    if (count > 0) store_row(p, row);
  } else {
    float x[8];
    unpack(row, x);
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (i < count) p[i] = from_float<T>(x[i]);
  }
}

// ---- Dropout of eight features from `feature` on, a multiple of 8. Update::scale has the factor 1 / (1 - p).
struct DropoutRow {
  uint32_t row, position;  // of the token
};
__device__ __forceinline__ DropoutRow dropout_row(const Dropout& d, int64_t m) {
  if (d.threshold == 0) return {0, 0};
  return {static_cast<uint32_t>(d.row_M[m]), static_cast<uint32_t>(d.position_M[m])};
}
__device__ __forceinline__ Draws draw(const Dropout& d, const DropoutRow& row, const Update& update, int64_t feature) {
  const uint32_t block = update.block + static_cast<uint32_t>(feature / 8);
  return philox(d.key, row.row, row.position, block, update.stream);
}
__device__ __forceinline__ bool kept(const Draws& draws, int i, uint32_t threshold) {
  const uint32_t word = draws.word[i / 2];
  return (i % 2 ? word >> 16 : word & 0xffffu) >= threshold;
}
template <class T>
__device__ __forceinline__ Row<T, 8> masked(const Row<T, 8>& row, const Draws& draws, uint32_t threshold) {
  Row<T, 8> result;
  if constexpr (kIs16Bit<T>) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      result.word[i] = row.word[i] & ((kept(draws, 2 * i, threshold) ? 0xffffu : 0u) |
                                      (kept(draws, 2 * i + 1, threshold) ? 0xffff0000u : 0u));
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) result.value[i] = kept(draws, i, threshold) ? row.value[i] : 0.0f;
  }
  return result;
}

// ---- Products on tiles. fp32 takes three tf32 products: of the high parts, and of high with low.

struct Split {
  float high, low;
};
__device__ __forceinline__ Split split(float x) {
  const float high = to_tf32(x);
  return {high, to_tf32(x - high)};
}
__device__ __forceinline__ void mma_f32(float (&c)[4], float a0, float a1, float a2, float a3, float b0, float b1) {
  const Split s0 = split(a0), s1 = split(a1), s2 = split(a2), s3 = split(a3), u0 = split(b0), u1 = split(b1);
  mma_k8(c, s0.low, s1.low, s2.low, s3.low, u0.high, u1.high);
  mma_k8(c, s0.high, s1.high, s2.high, s3.high, u0.low, u1.low);
  mma_k8(c, s0.high, s1.high, s2.high, s3.high, u0.high, u1.high);
}

// c [16 rows x 8] += x [16 rows x 4 N] y [8 x 4 N]^T. A lane passes N neighbouring elements of rows g and g + 8 of x,
// and of row g of y. c: rows g, g + 8, columns 2t, 2t + 1.
template <class T, int N>
__device__ __forceinline__ void multiply_rows(float (&c)[4], const Row<T, N>& low, const Row<T, N>& high,
                                              const Row<T, N>& y) {
#pragma unroll
  for (int i = 0; i < N / 4; ++i) {
    if constexpr (kIs16Bit<T>) {
      mma_k16<T>(c, low.word[2 * i], high.word[2 * i], low.word[2 * i + 1], high.word[2 * i + 1], y.word[2 * i],
                 y.word[2 * i + 1]);
    } else {
#pragma unroll
      for (int j = 4 * i; j < 4 * i + 4; j += 2)
        mma_f32(c, low.value[j], high.value[j], low.value[j + 1], high.value[j + 1], y.value[j], y.value[j + 1]);
    }
  }
}

// The feature, 0 ... 31, that column n of the j-th of four 8-column products stands for. Lane t thus gets features
// 8t + 2j and 8t + 2j + 1 from product j, and 8t ... 8t + 7 from all four.
__device__ __forceinline__ int feature_of(int j, int n) { return n / 2 * 8 + 2 * j + n % 2; }

// y [16 rows x 32 features] += s [16 rows x R] at [32 features x R]^T for this warp's tile: y[j][0 ... 1] are features
// 8t + 2j, 8t + 2j + 1 of row g, y[j][2 ... 3] of row g + 8. s_low, s_high: this lane's rows g and g + 8 of s, null
// beyond the last row; at_32: the tile's 32 rows of A transposed, of which `features` exist.
template <class T>
__device__ __forceinline__ void add_product(float (&y)[4][4], const T* s_low, const T* s_high, const T* at_32,
                                            int64_t ld_at, int begin, int end, int64_t features, const Lane& lane) {
  for (int r = begin; r < end; r += 16) {
    const bool there = r + 4 * lane.t < end;
    const int column = r + 4 * lane.t;
    const Row<T, 4> low = there && s_low ? load_row<T, 4>(s_low + column) : zero_row<T, 4>();
    const Row<T, 4> high = there && s_high ? load_row<T, 4>(s_high + column) : zero_row<T, 4>();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int feature = feature_of(j, lane.g);
      const Row<T, 4> b =
          there && feature < features ? load_row<T, 4>(at_32 + feature * ld_at + column) : zero_row<T, 4>();
      multiply_rows<T, 4>(y[j], low, high, b);
    }
  }
}

// The 16 x 16 block s[0 ... 15][column ... column + 15] transposed, as the left operand of a product that sums over its
// rows. Rows from `rows` on and columns outside [begin, end) are zero.
template <class T>
struct Turned {
  uint32_t word[4];
};
template <>
struct Turned<float> {
  float value[8];
};
template <class T>
__device__ __forceinline__ Turned<T> load_turned(const T* s, int64_t ld, int64_t rows, int column, int begin, int end,
                                                 const Lane& lane) {
  Turned<T> turned;
  if constexpr (kIs16Bit<T>) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // quarters: columns + 8 (i % 2), rows + 8 (i / 2)
      const int row = lane.g + 8 * (i / 2), c = column + 8 * (i % 2) + 2 * lane.t;
      uint32_t word = 0;
      if (row < rows && c >= begin && c < end) word = load_word(s + row * ld + c);
      turned.word[i] = transpose_8x8(word);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) {  // step i / 4 sums over rows 8 (i / 4) ...
      const int row = 8 * (i / 4) + lane.t + 4 * (i % 4 / 2), c = column + lane.g + 8 * (i % 2);
      turned.value[i] = row < rows && c >= begin && c < end ? s[row * ld + c] : 0.0f;
    }
  }
  return turned;
}

// c [16 columns of s x 32 features] += s^T x over the tile's 16 rows: c[j][0 ... 1] are features 8t + 2j, 8t + 2j + 1
// of column g of s, c[j][2 ... 3] of column g + 8.
template <class T>
__device__ __forceinline__ void multiply_columns(float (&c)[4][4], const Turned<T>& s, const Row<T, 8>& low,
                                                 const Row<T, 8>& high, const Lane& lane) {
  if constexpr (kIs16Bit<T>) {
#pragma unroll
    for (int j = 0; j < 4; ++j)
      mma_k16<T>(c[j], s.word[0], s.word[1], s.word[2], s.word[3], transpose_8x8(low.word[j]),
                 transpose_8x8(high.word[j]));
  } else {
    // Lane (row % 8, g / 2) has element (row, feature_of(j, g)), as its value 2j + g % 2.
    const auto fetch = [&](const Row<float, 8>& from, int row, int j) {
      const int owner = 4 * row + lane.g / 2;
      const float even = __shfl_sync(0xffffffffu, from.value[2 * j], owner);
      const float odd = __shfl_sync(0xffffffffu, from.value[2 * j + 1], owner);
      return lane.g % 2 ? odd : even;
    };
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      mma_f32(c[j], s.value[0], s.value[1], s.value[2], s.value[3], fetch(low, lane.t, j), fetch(low, lane.t + 4, j));
      mma_f32(c[j], s.value[4], s.value[5], s.value[6], s.value[7], fetch(high, lane.t, j), fetch(high, lane.t + 4, j));
    }
  }
}

// Writes the result of multiply_columns to rows `column` ... column + 15 (below `end`) of a row-major fp32 matrix of
// pitch ld. `to` is this lane's first feature in row 0; `left` of its features exist. `add`: adds to the old values.
__device__ __forceinline__ void store_columns(float* to, int64_t ld, int column, int end, int64_t left,
                                              const float (&c)[4][4], bool add, const Lane& lane) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = column + lane.g + 8 * half;
    if (row >= end) continue;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i)
        if (2 * j + i < left) to[row * ld + 2 * j + i] = (add ? to[row * ld + 2 * j + i] : 0.0f) + c[j][2 * half + i];
    }
  }
}

template <class T>
__device__ __forceinline__ float exponential(float x) {
  if constexpr (kIs16Bit<T>) {
    return fast_exp(x);
  } else {
    return expf(x);
  }
}
template <class T>
__device__ __forceinline__ float sigmoid(float x) {
  if constexpr (kIs16Bit<T>) {
    return fast_reciprocal(1 + fast_exp(-x));
  } else {
    return 1 / (1 + expf(-x));
  }
}
// h * rstd * (gain + offset)
template <class T>
__device__ __forceinline__ Row<T, 8> norm_row(const Row<T, 8>& h_row, float rstd, const Row<T, 8>& gain_row,
                                              float offset) {
  float h[8], gain[8];
  unpack(h_row, h);
  unpack(gain_row, gain);
#pragma unroll
  for (int i = 0; i < 8; ++i) h[i] = h[i] * rstd * (gain[i] + offset);
  return pack_row<T, 8>(h);
}
// The square of x, with an upper bound, so that 0 * square is 0 and never NaN. At the bound a gate's sigmoid is 0 or 1.
__device__ __forceinline__ float bounded_square(float x) { return fminf(x * x, 1e10f); }
template <class T>
__device__ __forceinline__ float gate_sigmoid(const Gate& gate, float x) {
  return sigmoid<T>(x * (gate.linear + gate.cubic * bounded_square(x)));
}
// act(gate) * up
template <class T>
__device__ __forceinline__ Row<T, 8> glu_row(const Gate& act, const Row<T, 8>& gate_row, const Row<T, 8>& up_row) {
  float gate[8], up[8];
  unpack(gate_row, gate);
  unpack(up_row, up);
#pragma unroll
  for (int i = 0; i < 8; ++i) gate[i] = gate[i] * gate_sigmoid<T>(act, gate[i]) * up[i];
  return pack_row<T, 8>(gate);
}

// The scale of the update that a column of S belongs to.
__device__ __forceinline__ float scale_of(const Updates& updates, int64_t column) {
  float scale = 0;
  for (int u = 0; u < updates.count; ++u)
    if (column >= updates.update[u].begin) scale = updates.update[u].scale;
  return scale;
}

// Adds element i of `count` partial sums of `size` elements each, in their order.
__device__ __forceinline__ float sum_of_parts(const float* parts, int64_t count, int64_t size, int64_t i) {
  float sum = 0;
  for (int64_t part = 0; part < count; ++part) sum += parts[part * size + i];
  return sum;
}

// Sum over the four lanes of one row.
__device__ __forceinline__ float sum_of_row(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

}  // namespace rankfold::kernels
