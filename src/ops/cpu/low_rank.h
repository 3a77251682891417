// The low-rank products of a projection, tile by tile. Each tile draws its own dropout mask.
#pragma once

#include "ops/cpu/dropout.h"
#include "ops/cpu/product.h"

namespace rankfold::cpu {
namespace {

constexpr int64_t kTileRows = 32, kTileColumns = kLowRankColumns, kSummedRows = 64;

template <class T>
int64_t low_rank_packed(int64_t m, int64_t k, bool transposed) {
  const int64_t count = transposed ? words<T>(k) * padded<T>(m) : words<T>(m) * padded<T>(k);
  return count * static_cast<int64_t>(sizeof(WordOf<T>));
}

template <class T>
void low_rank_pack(const T* x, int64_t m, int64_t k, bool transposed, void* packed) {
  auto* y = static_cast<WordOf<T>*>(packed);
  if (transposed) {
    pack_transposed<T>(x, k, m, k, y, padded<T>(m));
  } else {
    pack_rows<T>(x, k, m, k, y, padded<T>(k));
  }
}

constexpr int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

template <class T>
struct LowRankRoom {
  using W = WordOf<T>;
  T* dropped;       // [rows][columns]
  W *left, *right;  // operands that must be packed into words
  Sum<T>* sum;
  LowRankRoom(int64_t rank, Scratch& scratch)
      : dropped(scratch.take<T>(kSummedRows * kTileColumns)),
        left(scratch.take<W>(kSummedRows * most(kTileColumns, padded<T>(rank)))),
        right(scratch.take<W>(kSummedRows * kTileColumns)),
        sum(scratch.take<Sum<T>>(most(kTileRows * padded<T>(rank), most(kTileRows, rank) * kTileColumns))) {}
};

template <class T>
int64_t low_rank_scratch(int64_t rank) {
  Scratch count(nullptr);
  LowRankRoom<T>(rank, count);
  return count.used();
}

template <class T>
void low_rank_down(const T* x, int64_t pitch, const DropoutCounters* c, int64_t m, int64_t k, const void* packed,
                   int64_t rank, double scale, T* s, void* block) {
  Scratch scratch(block);
  const LowRankRoom<T> room(rank, scratch);
  const int64_t ld = padded<T>(rank);
  const Sum<T> factor = static_cast<Sum<T>>(c ? scale * static_cast<double>(c->scale) : scale);
  for (int64_t top = 0; top < m; top += kTileRows) {
    const int64_t rows = least(kTileRows, m - top);
    for (int64_t begin = 0; begin < k; begin += kTileColumns) {
      const int64_t columns = least(kTileColumns, k - begin);
      const T* from = x + top * pitch + begin;
      int64_t from_pitch = pitch;
      if (c) {
        dropout_tile(from, pitch, *c, top, begin, rows, columns, room.dropped, kTileColumns);
        from = room.dropped, from_pitch = kTileColumns;
      }
      product<T>(rows, rank, words<T>(columns), rows_operand<T>(from, from_pitch, rows, columns, room.left),
                 static_cast<const WordOf<T>*>(packed) + begin / kGroup<T> * ld, ld, room.sum, ld, begin > 0);
    }
    for (int64_t i = 0; i < rows; ++i, s += rank) {
      const Sum<T>* sum = room.sum + i * ld;
      store_each(s, rank, [&](int64_t j) { return sum[j] * factor; });
    }
  }
}

template <class T>
void low_rank_up(const T* s, const void* packed, int64_t rank, const DropoutCounters* c, int64_t m, int64_t n, T* y,
                 int64_t pitch, void* block) {
  Scratch scratch(block);
  const LowRankRoom<T> room(rank, scratch);
  const int64_t ld = padded<T>(n);
  for (int64_t top = 0; top < m; top += kTileRows) {
    const int64_t rows = least(kTileRows, m - top);
    const Operand<T> left = rows_operand<T>(s + top * rank, rank, rows, rank, room.left);
    for (int64_t begin = 0; begin < n; begin += kTileColumns) {
      const int64_t columns = least(kTileColumns, n - begin);
      product<T>(rows, columns, words<T>(rank), left, static_cast<const WordOf<T>*>(packed) + begin, ld, room.sum,
                 kTileColumns, false);
      T* to = y + top * pitch + begin;
      if (c) {
        add_dropped_tile(room.sum, kTileColumns, *c, top, begin, rows, columns, to, pitch);
        continue;
      }
      for (int64_t i = 0; i < rows; ++i, to += pitch) {
        const Sum<T>* sum = room.sum + i * kTileColumns;
        store_each(to, columns, [&](int64_t j) { return load(to[j]) + sum[j]; });
      }
    }
  }
}

template <class T>
void low_rank_gradient(const T* s, int64_t rank, const T* x, int64_t pitch, const DropoutCounters* c, int64_t m,
                       int64_t begin, int64_t columns, Sum<T>* gradient, int64_t row, int64_t column, void* block) {
  Scratch scratch(block);
  const LowRankRoom<T> room(rank, scratch);
  const int64_t ld = padded<T>(columns), ld_rank = padded<T>(rank);
  for (int64_t top = 0; top == 0 || top < m; top += kSummedRows) {
    const int64_t rows = least(kSummedRows, m - top);
    const T* from = x + top * pitch + begin;
    int64_t from_pitch = pitch;
    if (c) {
      dropout_tile(from, pitch, *c, top, begin, rows, columns, room.dropped, kTileColumns);
      from = room.dropped, from_pitch = kTileColumns;
    }
    pack_rows<T>(s + top * rank, rank, rows, rank, room.left, ld_rank);
    pack_rows<T>(from, from_pitch, rows, columns, room.right, ld);
    product<T>(rank, columns, words<T>(rows), {room.left, 1, ld_rank}, room.right, ld, room.sum, ld, top > 0);
  }
  const Sum<T> factor = c ? c->scale : 1;
  for (int64_t i = 0; i < rank; ++i)
    for (int64_t j = 0; j < columns; ++j) gradient[i * row + (begin + j) * column] = factor * room.sum[i * ld + j];
}

}  // namespace
}  // namespace rankfold::cpu
