// Matrix products that are small enough to stay in the cache: C[m][n] = or += sum over k of A[m][k] B[k][n]. A and B
// are words (simd.h), C has the type of the sums. Rows of B and C are padded to whole vectors; the padding may hold
// anything.
#pragma once

#include "ops/cpu/simd.h"

namespace rankfold::cpu {
namespace {

template <class T>
constexpr int64_t padded(int64_t n) {
  return round_up(n, kLanes<T>);
}
template <class T>
constexpr int64_t words(int64_t k) {
  return (k + kGroup<T> - 1) / kGroup<T>;
}

// Word (i, k) of a matrix lies at data + i * row + k * column.
template <class T>
struct Operand {
  const WordOf<T>* data;
  int64_t row, column;
};

template <class T, int kRows, int kVectors>
inline void product_tile(int64_t k, const Operand<T>& a, const WordOf<T>* b, int64_t ldb, Sum<T>* c, int64_t ldc,
                         bool add) {
  using S = Sum<T>;
  constexpr int64_t lanes = kLanes<T>;
  Vector<S> sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[i][v] = add ? load_vector(c + i * ldc + v * lanes) : Vector<S>{};
  const WordOf<T>* a_k = a.data;
  for (int64_t j = 0; j < k; ++j, b += ldb, a_k += a.column) {
    Vector<WordOf<T>> row[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) row[v] = load_vector(b + v * lanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const Vector<WordOf<T>> x = broadcast(a_k[i * a.row]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[i][v] = multiply_add(x, row[v], sum[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) store_vector(c + i * ldc + v * lanes, sum[i][v]);
}

template <class T, int kRows, int kVectors>
void product_columns(int64_t m, int64_t k, Operand<T> a, const WordOf<T>* b, int64_t ldb, Sum<T>* c, int64_t ldc,
                     bool add) {
  for (; m >= kRows; m -= kRows, a.data += kRows * a.row, c += kRows * ldc)
    product_tile<T, kRows, kVectors>(k, a, b, ldb, c, ldc, add);
  if constexpr (kRows > 1)
    if (m > 0) product_columns<T, kRows / 2, kVectors>(m, k, a, b, ldb, c, ldc, add);
}

// k counts words. A tile has as many sums as fit the vector registers: 16, or 8 on processors with 16 registers.
template <class T>
void product(int64_t m, int64_t n, int64_t k, Operand<T> a, const WordOf<T>* b, int64_t ldb, Sum<T>* c, int64_t ldc,
             bool add) {
  constexpr int64_t lanes = kLanes<T>, kDepth = 256;  // words of B's rows that stay in the first-level cache
#if defined(__AVX512F__)
  constexpr int kWide = 4, kFew = 4, kMany = 8;
#else
  constexpr int kWide = 2, kFew = 4, kMany = 8;
#endif
  for (int64_t begin = 0; begin == 0 || begin < k; begin += kDepth) {
    const int64_t depth = least(kDepth, k - begin);
    const Operand<T> a_part{a.data + begin * a.column, a.row, a.column};
    const WordOf<T>* b_part = b + begin * ldb;
    const bool adds = add || begin > 0;
    int64_t j = 0;
    for (; j + kWide * lanes <= round_up(n, lanes); j += kWide * lanes)
      product_columns<T, kFew, kWide>(m, depth, a_part, b_part + j, ldb, c + j, ldc, adds);
    if constexpr (kWide > 2)
      for (; j + 2 * lanes <= round_up(n, lanes); j += 2 * lanes)
        product_columns<T, kMany, 2>(m, depth, a_part, b_part + j, ldb, c + j, ldc, adds);
    for (; j < n; j += lanes) product_columns<T, kMany, 1>(m, depth, a_part, b_part + j, ldb, c + j, ldc, adds);
  }
}

// Rows of x [m][k] as A: in place if x has the layout of words already, otherwise packed into `room` [m][words(k)].
template <class T, class X>
Operand<T> rows_operand(const X* x, int64_t pitch, int64_t m, int64_t k, WordOf<T>* room) {
  constexpr int64_t group = kGroup<T>;
  if constexpr (sizeof(X) * group == sizeof(WordOf<T>))
    if (k % group == 0 && pitch % group == 0 && reinterpret_cast<uintptr_t>(x) % sizeof(WordOf<T>) == 0)
      return {reinterpret_cast<const WordOf<T>*>(x), pitch / group, 1};
  const int64_t count = words<T>(k);
  for (int64_t i = 0; i < m; ++i, x += pitch) {
    WordOf<T>* y = room + i * count;
    const int64_t whole = k / group;
#pragma omp simd
    for (int64_t j = 0; j < whole; ++j) make_word(y[j], x[j * group], x[j * group + group - 1]);
    if (whole < count) make_word(y[whole], x[k - 1], X{});
  }
  return {room, count, 1};
}

// Packs x [m][k] as B = x^T, for a product that sums over k: words [words(k)][ld], ld >= m.
template <class T, class X>
void pack_transposed(const X* x, int64_t pitch, int64_t m, int64_t k, WordOf<T>* y, int64_t ld) {
  constexpr int64_t group = kGroup<T>, kRowsAtATime = 16;
  for (int64_t begin = 0; begin < m; begin += kRowsAtATime) {
    const int64_t rows = least(kRowsAtATime, m - begin);
    const X* from = x + begin * pitch;
    for (int64_t j = 0; j < k / group; ++j)
      for (int64_t i = 0; i < rows; ++i) {
        const X* pair = from + i * pitch + j * group;
        make_word(y[j * ld + begin + i], pair[0], pair[group - 1]);
      }
    if (k % group != 0)
      for (int64_t i = 0; i < rows; ++i) make_word(y[k / group * ld + begin + i], from[i * pitch + k - 1], X{});
  }
}

// Packs x [m][k] as B, for a product that sums over m: words [words(m)][ld], ld >= k. It also serves as A = x^T, with
// Operand row 1 and column ld.
template <class T, class X>
void pack_rows(const X* x, int64_t pitch, int64_t m, int64_t k, WordOf<T>* y, int64_t ld) {
  constexpr int64_t group = kGroup<T>;
  for (int64_t i = 0; i < m; i += group, x += group * pitch, y += ld) {
    const X* other = x + (group - 1) * pitch;
    if (i + group <= m) {
#pragma omp simd
      for (int64_t j = 0; j < k; ++j) make_word(y[j], x[j], other[j]);
    } else {
#pragma omp simd
      for (int64_t j = 0; j < k; ++j) make_word(y[j], x[j], X{});
    }
  }
}

// Allocates parts of a scratch block, each aligned to 64 bytes. With a null block it only counts the bytes.
class Scratch {
 public:
  explicit Scratch(void* block) : block_(static_cast<char*>(block)) {}
  template <class X>
  X* take(int64_t count) {
    char* part = block_ ? block_ + used_ : nullptr;
    used_ += round_up(count * static_cast<int64_t>(sizeof(X)), 64);
    return reinterpret_cast<X*>(part);
  }
  int64_t used() const { return used_; }

 private:
  char* block_;
  int64_t used_ = 0;
};

}  // namespace
}  // namespace rankfold::cpu
