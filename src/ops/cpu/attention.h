// Causal attention of one key/value head over one sequence, in blocks of query rows. A block computes the scores of all
// keys that its rows see, so the softmax needs no second pass or rescaling.
#pragma once

#include "ops/cpu/product.h"

namespace rankfold::cpu {
namespace {

constexpr int64_t kQueryRows = 64;

template <class T>
struct AttentionRoom {
  using W = WordOf<T>;
  using S = Sum<T>;
  int64_t ld, ld_size;  // padded length and head size
  W *key_t, *value;     // [words(size)][ld], [words(length)][ld_size]
  S *score, *result;    // [rows][ld], [rows][ld_size]
  W *query, *weight;    // [rows][words(size)], [rows][words(ld)]
  // Only for backward:
  W *value_t, *key;    // as key_t and value
  S* d_score;          // [rows][ld]
  S *d_key, *d_value;  // [length][ld_size]
  W* d_out;            // [rows][words(size)]
  W *weight_rows, *d_score_rows, *query_rows,
      *d_out_rows;  // rows summed: [words(rows)][ld], ..., [words(rows)][ld_size]

  AttentionRoom(int64_t length, int64_t size, bool backward, Scratch& scratch)
      : ld(padded<T>(length)), ld_size(padded<T>(size)) {
    const int64_t rows = least(kQueryRows, length);
    key_t = scratch.take<W>(words<T>(size) * ld);
    value = scratch.take<W>(words<T>(length) * ld_size);
    score = scratch.take<S>(rows * ld);
    result = scratch.take<S>(rows * ld_size);
    query = scratch.take<W>(rows * words<T>(size));
    weight = scratch.take<W>(rows * words<T>(ld));
    if (!backward) return;
    value_t = scratch.take<W>(words<T>(size) * ld);
    key = scratch.take<W>(words<T>(length) * ld_size);
    d_score = scratch.take<S>(rows * ld);
    d_key = scratch.take<S>(length * ld_size);
    d_value = scratch.take<S>(length * ld_size);
    d_out = scratch.take<W>(rows * words<T>(size));
    weight_rows = scratch.take<W>(words<T>(rows) * ld);
    d_score_rows = scratch.take<W>(words<T>(rows) * ld);
    query_rows = scratch.take<W>(words<T>(rows) * ld_size);
    d_out_rows = scratch.take<W>(words<T>(rows) * ld_size);
  }
};

template <class T>
int64_t attention_scratch(int64_t length, int64_t size, bool backward) {
  Scratch count(nullptr);
  AttentionRoom<T>(length, size, backward, count);
  return count.used();
}

// How a raw score q k becomes the input of the softmax: scale, soft cap, slope, window. Columns count from the
// sequence's first key.
template <class T>
struct ScoreRule {
  using S = Sum<T>;
  S scale, soft_cap, slope;
  int64_t window;
  bool is_plain;

  template <class Unit>
  ScoreRule(const Unit& u, int64_t head)
      : scale(static_cast<S>(u.scale)),
        soft_cap(static_cast<S>(u.soft_cap)),
        slope(u.slopes ? static_cast<S>(u.slopes[head]) : 0),
        window(u.window),
        is_plain(u.soft_cap == 0 && !u.slopes) {}

  // Query `row` sees keys [first(row), row].
  int64_t first(int64_t row) const { return row < window ? 0 : row - window + 1; }
  // The first key of a block of queries that begins at `row`, rounded down to a whole block.
  int64_t first_of_block(int64_t row) const { return first(row) / kQueryRows * kQueryRows; }

  // tanh(s * scale / soft_cap)
  S bend(S s) const { return 1 - 2 / (exponential(2 * s * scale / soft_cap) + 1); }
  S distance(int64_t row, int64_t column) const { return static_cast<S>(row - column); }
  // The input of the softmax.
  S score(S s, int64_t row, int64_t column) const {
    return (soft_cap > 0 ? soft_cap * bend(s) : s * scale) - slope * distance(row, column);
  }
};

template <class T>
struct Weighed {
  Sum<T> largest, sum;  // of the softmax's inputs; of the weights
};
// Replaces a row's scores p [first, seen) by weights, scaled so that the largest is 1. Returns what normalises them.
template <class T>
inline Weighed<T> weigh(const ScoreRule<T>& rule, Sum<T>* p, int64_t row, int64_t first, int64_t seen) {
  using S = Sum<T>;
  S scale = rule.scale;
  if (!rule.is_plain) {
#pragma omp simd
    for (int64_t j = first; j < seen; ++j) p[j] = rule.score(p[j], row, j);
    scale = 1;
  }
  S largest = p[first], sum = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t j = first; j < seen; ++j) largest = p[j] > largest ? p[j] : largest;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = first; j < seen; ++j) {
    p[j] = exponential((p[j] - largest) * scale);
    sum += p[j];
  }
  return {largest * scale, sum};
}

template <class T>
void attention(const Attention<T>& u, void* block) {
  using S = Sum<T>;
  Scratch scratch(block);
  const AttentionRoom<T> room(u.length, u.size, false, scratch);
  const int64_t size_words = words<T>(u.size);
  pack_transposed<T>(u.k, u.pitch, u.length, u.size, room.key_t, room.ld);
  pack_rows<T>(u.v, u.pitch, u.length, u.size, room.value, room.ld_size);
  for (int64_t head = 0; head < u.group; ++head) {
    const ScoreRule<T> rule(u, head);
    for (int64_t begin = 0; begin < u.length; begin += kQueryRows) {
      const int64_t end = least(u.length, begin + kQueryRows), rows = end - begin, wide = padded<T>(end);
      const int64_t left = rule.first_of_block(begin);  // no row sees a key before it
      const T* q = u.q + begin * u.pitch + head * u.size;
      S inverse[kQueryRows];  // 1 / a row's sum of weights, applied to the result: the weights stay unnormalised
      product<T>(rows, end - left, size_words, rows_operand<T>(q, u.pitch, rows, u.size, room.query), room.key_t + left,
                 room.ld, room.score + left, room.ld, false);
      for (int64_t i = 0; i < rows; ++i) {
        S* p = room.score + i * room.ld;
        const int64_t row = begin + i, seen = row + 1, first = rule.first(row);
        const Weighed<T> weighed = weigh(rule, p, row, first, seen);
        for (int64_t j = left; j < first; ++j) p[j] = 0;
        for (int64_t j = seen; j < wide; ++j) p[j] = 0;
        u.lse[head * u.lse_pitch + row] = weighed.largest + static_cast<S>(::log(static_cast<double>(weighed.sum)));
        inverse[i] = 1 / weighed.sum;
      }
      product<T>(rows, u.size, words<T>(end - left),
                 rows_operand<T>(room.score + left, room.ld, rows, wide - left, room.weight),
                 room.value + words<T>(left) * room.ld_size, room.ld_size, room.result, room.ld_size, false);
      for (int64_t i = 0; i < rows; ++i) {
        const S* from = room.result + i * room.ld_size;
        store_each(u.out + (begin + i) * u.out_pitch + head * u.size, u.size,
                   [&](int64_t j) { return from[j] * inverse[i]; });
      }
    }
  }
}

template <class T>
void attention_backward(const Attention<T>& u, const AttentionGradient<T>& g, void* block) {
  using S = Sum<T>;
  Scratch scratch(block);
  const AttentionRoom<T> room(u.length, u.size, true, scratch);
  const int64_t size_words = words<T>(u.size);
  pack_transposed<T>(u.k, u.pitch, u.length, u.size, room.key_t, room.ld);
  pack_transposed<T>(u.v, u.pitch, u.length, u.size, room.value_t, room.ld);
  pack_rows<T>(u.k, u.pitch, u.length, u.size, room.key, room.ld_size);
  for (int64_t i = 0; i < u.length * room.ld_size; ++i) room.d_key[i] = room.d_value[i] = 0;
  for (int64_t head = 0; head < u.group; ++head) {
    const ScoreRule<T> rule(u, head);
    for (int64_t begin = 0; begin < u.length; begin += kQueryRows) {
      const int64_t end = least(u.length, begin + kQueryRows), rows = end - begin, wide = padded<T>(end);
      const int64_t left = rule.first_of_block(begin), left_words = words<T>(left);
      const T* q = u.q + begin * u.pitch + head * u.size;
      const T* out = u.out + begin * u.out_pitch + head * u.size;
      const T* d_out = g.d_out + begin * g.d_out_pitch + head * u.size;
      product<T>(rows, end - left, size_words, rows_operand<T>(q, u.pitch, rows, u.size, room.query), room.key_t + left,
                 room.ld, room.score + left, room.ld, false);
      product<T>(rows, end - left, size_words, rows_operand<T>(d_out, g.d_out_pitch, rows, u.size, room.d_out),
                 room.value_t + left, room.ld, room.d_score + left, room.ld, false);
      for (int64_t i = 0; i < rows; ++i) {
        S *p = room.score + i * room.ld, *d = room.d_score + i * room.ld, delta = 0;
        const T *o = out + i * u.out_pitch, *d_o = d_out + i * g.d_out_pitch;
        const int64_t row = begin + i, seen = row + 1, first = rule.first(row);
        const S lse = u.lse[head * u.lse_pitch + row], scale = rule.scale;
#pragma omp simd reduction(+ : delta)
        for (int64_t j = 0; j < u.size; ++j) delta += load(o[j]) * load(d_o[j]);
        if (rule.is_plain) {
#pragma omp simd
          for (int64_t j = first; j < seen; ++j) {
            p[j] = exponential(p[j] * scale - lse);
            d[j] = p[j] * (d[j] - delta) * scale;
          }
        } else {
#pragma omp simd
          for (int64_t j = first; j < seen; ++j) {
            const S bent = rule.soft_cap > 0 ? rule.bend(p[j]) : 0;
            p[j] = exponential(rule.score(p[j], row, j) - lse);
            d[j] = p[j] * (d[j] - delta) * scale * (1 - bent * bent);
          }
        }
        for (int64_t j = left; j < first; ++j) p[j] = d[j] = 0;
        for (int64_t j = seen; j < wide; ++j) p[j] = d[j] = 0;
      }
      product<T>(rows, u.size, words<T>(end - left),
                 rows_operand<T>(room.d_score + left, room.ld, rows, wide - left, room.weight),
                 room.key + left_words * room.ld_size, room.ld_size, room.result, room.ld_size, false);
      for (int64_t i = 0; i < rows; ++i) {
        const S* from = room.result + i * room.ld_size;
        T* to = g.dq + (begin + i) * g.pitch + head * u.size;
        store_all(to, from, u.size);
      }
      // dV += P^T dO, dK += dS^T Q: the block's rows are summed.
      pack_rows<T>(room.score + left, room.ld, rows, wide - left, room.weight_rows + left, room.ld);
      pack_rows<T>(room.d_score + left, room.ld, rows, wide - left, room.d_score_rows + left, room.ld);
      pack_rows<T>(d_out, g.d_out_pitch, rows, u.size, room.d_out_rows, room.ld_size);
      pack_rows<T>(q, u.pitch, rows, u.size, room.query_rows, room.ld_size);
      product<T>(end - left, u.size, words<T>(rows), {room.weight_rows + left, 1, room.ld}, room.d_out_rows,
                 room.ld_size, room.d_value + left * room.ld_size, room.ld_size, true);
      product<T>(end - left, u.size, words<T>(rows), {room.d_score_rows + left, 1, room.ld}, room.query_rows,
                 room.ld_size, room.d_key + left * room.ld_size, room.ld_size, true);
    }
  }
  for (int64_t i = 0; i < u.length; ++i) {
    store_all(g.dk + i * g.pitch, room.d_key + i * room.ld_size, u.size);
    store_all(g.dv + i * g.pitch, room.d_value + i * room.ld_size, u.size);
  }
}

}  // namespace
}  // namespace rankfold::cpu
