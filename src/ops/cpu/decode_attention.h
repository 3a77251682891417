// Attention in generation: a few queries at a row's end over its cached keys and values. The cache stores words
// (simd.h) in the layout that the two products of attention read, so nothing is packed again at each token.
#pragma once

#include "ops/cpu/attention.h"

namespace rankfold::cpu {
namespace {

constexpr int64_t kKeyBlock = 64;  // positions whose words are contiguous

// Bytes of keys [capacity / kKeyBlock][words(size)][kKeyBlock] and values [words(capacity)][padded(size)]. A larger
// capacity only adds bytes at the end.
template <class T>
int64_t cached_keys(int64_t capacity, int64_t size) {
  return round_up(capacity, kKeyBlock) * words<T>(size) * static_cast<int64_t>(sizeof(WordOf<T>));
}
template <class T>
int64_t cached_values(int64_t capacity, int64_t size) {
  return words<T>(capacity) * padded<T>(size) * static_cast<int64_t>(sizeof(WordOf<T>));
}

template <class T>
void cache_append(const CachedHead<T>& head, const T* k, const T* v, int64_t pitch, int64_t added) {
  using W = WordOf<T>;
  using Element = typename Word<T>::Element;
  constexpr int64_t group = kGroup<T>;
  const int64_t size_words = words<T>(head.size), ld = padded<T>(head.size);
  W* keys = static_cast<W*>(head.keys);
  Element* values = static_cast<Element*>(head.values);
  for (int64_t i = 0; i < added; ++i, k += pitch, v += pitch) {
    const int64_t at = head.before + i;
    W* key = keys + at / kKeyBlock * size_words * kKeyBlock + at % kKeyBlock;
    const int64_t whole = head.size / group;
    for (int64_t j = 0; j < whole; ++j) make_word(key[j * kKeyBlock], k[j * group], k[j * group + group - 1]);
    if (whole < size_words) make_word(key[whole * kKeyBlock], k[head.size - 1], T{});
    Element* value = values + at / group * ld * group + at % group;
    for (int64_t j = 0; j < head.size; ++j) {
      store(value[j * group], load(v[j]));
      // The product multiplies the unused half of the last word by a weight of 0, so it must not be NaN or infinite.
      if (at % group == 0 && group > 1) value[j * group + group - 1] = Element{};
    }
  }
}

template <class T>
struct DecodeRoom {
  int64_t ld, ld_size;       // padded length and head size
  Sum<T>*score, *result;     // [group][ld], [group][ld_size]
  Sum<T>* inverse;           // [group], 1 / a row's sum of weights, applied to the result
  WordOf<T>*query, *weight;  // [group][words(size)], [group][words(ld)]

  DecodeRoom(int64_t length, int64_t size, int64_t group, Scratch& scratch)
      : ld(round_up(length, kKeyBlock)), ld_size(padded<T>(size)) {
    score = scratch.take<Sum<T>>(group * ld);
    result = scratch.take<Sum<T>>(group * ld_size);
    inverse = scratch.take<Sum<T>>(group);
    query = scratch.take<WordOf<T>>(group * words<T>(size));
    weight = scratch.take<WordOf<T>>(group * words<T>(ld));
  }
};

template <class T>
int64_t decode_scratch(int64_t length, int64_t size, int64_t group) {
  Scratch count(nullptr);
  DecodeRoom<T>(length, size, group, count);
  return count.used();
}

template <class T>
void decode_attention(const DecodeAttention<T>& u, void* block) {
  using W = WordOf<T>;
  const CachedHead<T>& head = u.head;
  const int64_t size = head.size, size_words = words<T>(size);
  Scratch scratch(block);
  const DecodeRoom<T> room(head.before + u.added, size, u.group, scratch);
  const W *keys = static_cast<const W*>(head.keys), *values = static_cast<const W*>(head.values);
  for (int64_t i = 0; i < u.added; ++i) {
    const int64_t row = head.before + i, seen = row + 1;
    const T* q = u.q + i * u.pitch;
    T* out = u.out + i * u.out_pitch;
    const Operand<T> query = rows_operand<T>(q, size, u.group, size, room.query);
    const int64_t left = ScoreRule<T>(u, 0).first_of_block(row);
    for (int64_t j = left; j < seen; j += kKeyBlock)
      product<T>(u.group, kKeyBlock, size_words, query, keys + j / kKeyBlock * size_words * kKeyBlock, kKeyBlock,
                 room.score + j, room.ld, false);
    for (int64_t g = 0; g < u.group; ++g) {
      Sum<T>* p = room.score + g * room.ld;
      const ScoreRule<T> rule(u, g);
      const int64_t first = rule.first(row);
      for (int64_t j = left; j < first; ++j) p[j] = 0;
      room.inverse[g] = 1 / weigh(rule, p, row, first, seen).sum;
    }
    product<T>(u.group, size, words<T>(seen - left),
               rows_operand<T>(room.score + left, room.ld, u.group, seen - left, room.weight),
               values + left / kGroup<T> * room.ld_size, room.ld_size, room.result, room.ld_size, false);
    for (int64_t g = 0; g < u.group; ++g) {
      const Sum<T>* from = room.result + g * room.ld_size;
      store_each(out + g * size, size, [&](int64_t j) { return from[j] * room.inverse[g]; });
    }
  }
}

}  // namespace
}  // namespace rankfold::cpu
