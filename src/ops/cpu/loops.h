// The functions of the CPU path over raw pointers, one table per element type. src/ops/cpu/loops.cpp is compiled once
// per instruction set; loops() picks the widest that the processor has. They use one thread; callers split the rows.
// Legend: M tokens (rows), K inputs, N outputs, R rank, V vocabulary, D head size. All matrices are row-major and
// contiguous unless a pitch is given. Sums are fp32 (double for double). Scratch blocks are aligned to 64 bytes.
#pragma once

#include <cstdint>

namespace rankfold::kernels {
struct Packed;
}

namespace rankfold::cpu {

struct Bf16 {
  uint16_t bits;
};

// Philox 4x32-10 counters of a module's dropout mask: (row, position, block + feature / 8, stream). src/ops/dropout.h
// defines their bits.
struct DropoutCounters {
  const int32_t* row;       // [M] row within the accumulation window
  const int32_t* position;  // [M]
  uint64_t key;             // seed
  uint32_t stream, block;   // step and module
  uint16_t threshold;       // a 16-bit draw below it drops the element
  float scale;              // 65536 / (65536 - threshold)
};

template <class T>
struct SumOf {
  using type = float;
};
template <>
struct SumOf<double> {
  using type = double;
};

// One key/value head of one sequence and the query heads it serves.
template <class T>
struct Attention {
  int64_t length, size, group;  // tokens, D, query heads
  double scale;                 // of the scores
  double soft_cap;              // a score s becomes soft_cap * tanh(s / soft_cap); 0: s
  const float* slopes;          // [group] a score loses slope * distance; null: nothing
  int64_t window;               // keys that a query sees, its own included; length or more: all before it too
  const T *q, *k, *v;           // prepared, [length] rows; query head g at q + g * size
  int64_t pitch;                // of q, k and v
  T* out;                       // as q; written forward, read backward
  int64_t out_pitch;
  typename SumOf<T>::type* lse;  // [group][length], log-sum-exp of each row's scores; as out
  int64_t lse_pitch;
};
template <class T>
struct AttentionGradient {
  const T* d_out;  // as out
  int64_t d_out_pitch;
  T *dq, *dk, *dv;  // as q, k, v
  int64_t pitch;
};

// The cache of one key/value head of a row that is decoded; decode_attention.h has the layout.
template <class T>
struct CachedHead {
  int64_t size;    // D
  int64_t before;  // positions that are filled
  void *keys, *values;
};
// The query heads of that key/value head, for new tokens. cache_append must have appended the tokens.
template <class T>
struct DecodeAttention {
  CachedHead<T> head;
  int64_t group, added;  // query heads, new tokens
  double scale, soft_cap;
  const float* slopes;  // as in Attention
  int64_t window;
  const T* q;  // prepared, [added] rows; query head g at q + g * size
  int64_t pitch;
  T* out;  // as q
  int64_t out_pitch;
};

constexpr int64_t kLowRankColumns = 512;

// act(x) = x * sigmoid(linear * x + cubic * x^3): SiLU, or GELU in its tanh form.
struct Gate {
  double linear = 1, cubic = 0;
};

template <class T>
struct LoopTable {
  using Sum = typename SumOf<T>::type;
  // y = x * rstd * (g + offset), rstd_M = 1 / sqrt(mean(x^2) + eps).
  void (*rms_norm)(const T* x_MK, const T* g_K, double offset, double eps, int64_t m, int64_t k, T* y_MK, Sum* rstd_M);
  // dx = residual + rstd * (dy g - x rstd^2 mean(dy g x)), g with its offset; dg_K += dy x rstd where dg is not null.
  void (*rms_norm_backward)(const T* dy_MK, const T* x_MK, const T* g_K, double offset, const Sum* rstd_M,
                            const T* residual_MK, int64_t m, int64_t k, T* dx_MK, Sum* dg_K);
  // y = act(gate) * up, gate and up side by side in a row of 2 K.
  void (*glu)(const T* gate_up, const Gate& act, int64_t m, int64_t k, T* y_MK);
  void (*glu_backward)(const T* dy_MK, const T* gate_up, const Gate& act, int64_t m, int64_t k, T* dgate_up);
  // Rotary positions: y [M, (heads + plain) D] = x, where the pairs (i, i + rotary / 2) of the first `rotary` features
  // of the first `heads` heads are rotated. Other features, and the `plain` heads after them, are copied. y may be x if
  // the pitches are equal. cos, sin [lines, rotary / 2]; sign -1 rotates back.
  void (*rope)(const T* x, int64_t pitch, const int64_t* line_M, const float* cos, const float* sin, int64_t m,
               int64_t heads, int64_t plain, int64_t d, int64_t rotary, float sign, T* y, int64_t y_pitch);
  void (*add)(const T* x, int64_t count, T* y);  // y += x
  // y = mask * scale * x
  void (*dropout)(const T* x_MK, const DropoutCounters& c, int64_t m, int64_t k, T* y_MK);
  // loss_M = logsumexp(z) - z[label] with z = soft_cap * tanh(x / soft_cap), x itself where soft_cap is 0. With
  // `gradient`, x becomes (softmax(z) - onehot(label)) * dz / dx; otherwise its contents are undefined afterwards.
  void (*cross_entropy)(T* x_MV, const int64_t* label_M, int64_t m, int64_t v, double soft_cap, bool gradient,
                        double* loss_M);

  // Bytes of scratch that attention (or its backward) needs for sequences up to `length`.
  int64_t (*attention_scratch)(int64_t length, int64_t size, bool backward);
  void (*attention)(const Attention<T>& unit, void* scratch);
  void (*attention_backward)(const Attention<T>& unit, const AttentionGradient<T>& gradient, void* scratch);

  // Bytes of the keys and of the values of one cached head. A larger capacity only adds bytes at the end.
  int64_t (*cached_keys)(int64_t capacity, int64_t size);
  int64_t (*cached_values)(int64_t capacity, int64_t size);
  // k, v: [added] rows of one head.
  void (*cache_append)(const CachedHead<T>& head, const T* k, const T* v, int64_t pitch, int64_t added);
  int64_t (*decode_scratch)(int64_t length, int64_t size, int64_t group);  // bytes; length: with the added tokens
  void (*decode_attention)(const DecodeAttention<T>& unit, void* scratch);

  // Packs a low-rank factor x [m, k] for a product that sums over k (`transposed`), or over m.
  int64_t (*low_rank_packed)(int64_t m, int64_t k, bool transposed);  // bytes
  void (*low_rank_pack)(const T* x_MK, int64_t m, int64_t k, bool transposed, void* packed);
  int64_t (*low_rank_scratch)(int64_t rank);  // bytes; enough for each of the three functions below
  // s [M, R] = scale * drop(x) f, f [K, R] packed to sum over K; c null: no dropout.
  void (*low_rank_down)(const T* x, int64_t pitch, const DropoutCounters* c, int64_t m, int64_t k, const void* packed,
                        int64_t rank, double scale, T* s_MR, void* scratch);
  // y [M, N] += drop(s f), f [R, N] packed to sum over R.
  void (*low_rank_up)(const T* s_MR, const void* packed, int64_t rank, const DropoutCounters* c, int64_t m, int64_t n,
                      T* y, int64_t pitch, void* scratch);
  // Columns [begin, begin + columns) of s^T drop(x) [R, N], element (r, n) at gradient + r * row + n * column.
  // begin: a multiple of kLowRankColumns; columns: at most that.
  void (*low_rank_gradient)(const T* s_MR, int64_t rank, const T* x, int64_t pitch, const DropoutCounters* c, int64_t m,
                            int64_t begin, int64_t columns, Sum* gradient, int64_t row, int64_t column, void* scratch);

  // Decodes rows [begin, end), columns [first, last) of a weight.
  void (*decode)(const kernels::Packed& weight, int64_t begin, int64_t end, int64_t first, int64_t last, T* to,
                 int64_t pitch);
};

struct Loops {
  const char* name;
  float (*largest)(const float* x, int64_t count);  // NaN where a value is not finite
  // y = exp((x - largest) * scale); returns the sum of y. y may be x.
  double (*exponentials)(const float* x, int64_t count, float largest, float scale, float* y);

  // Quantisation. x must be finite.
  // By blocks of `block` elements, an even number; the last may be shorter. Scale: the block's largest magnitude. A
  // number, divided by its scale, that is above c of the ascending bounds [15] gets the 4-bit code order[c].
  void (*quantize_table)(const float* x, int64_t count, int64_t block, const float* bounds, const uint8_t* order,
                         float* scale, uint8_t* codes);
  // By row. int8: scale = the largest magnitude, which gets code 127. fp8: scale = the largest / 448, codes are E4M3.
  void (*quantize_int8)(const float* x_MK, int64_t m, int64_t k, float* scale_M, int8_t* codes_MK);
  void (*quantize_fp8)(const float* x_MK, int64_t m, int64_t k, float* scale_M, uint8_t* codes_MK);

  LoopTable<float> f32;
  LoopTable<Bf16> bf16;
  LoopTable<double> f64;

  template <class T>
  const LoopTable<T>& of() const;
};
template <>
inline const LoopTable<float>& Loops::of() const {
  return f32;
}
template <>
inline const LoopTable<Bf16>& Loops::of() const {
  return bf16;
}
template <>
inline const LoopTable<double>& Loops::of() const {
  return f64;
}

const Loops& loops();

}  // namespace rankfold::cpu
