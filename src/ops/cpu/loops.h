// The single-pass loops of the CPU path over raw pointers, one table per element type. src/ops/cpu/loops.cpp is
// compiled once per instruction set; loops() picks the widest the processor has. Callers split the rows over threads.
// Legend: M tokens (rows), K inputs, V vocabulary, D head size. All matrices are row-major and contiguous unless a
// pitch is given. Sums are fp32 (double for double).
#pragma once

#include <cstdint>

namespace rankfold::cpu {

struct Bf16 {
  uint16_t bits;
};

// Philox 4x32-10 counters of a module's dropout mask (src/ops/dropout.h says how they are made up).
struct DropoutCounters {
  const int32_t* row;       // [M] row within the accumulation window
  const int32_t* position;  // [M]
  uint64_t key;             // seed
  uint32_t stream;          // step and module
  uint32_t threshold;       // of 65536: a 16-bit draw below it drops the element
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

template <class T>
struct LoopTable {
  using Sum = typename SumOf<T>::type;
  // y = x * rsqrt(mean(x^2) + eps) * g; rstd_M kept.
  void (*rms_norm)(const T* x_MK, const T* g_K, double eps, int64_t m, int64_t k, T* y_MK, Sum* rstd_M);
  // dx = residual + rstd * (dy g - x rstd^2 mean(dy g x)); dg_K += dy x rstd where dg is not null.
  void (*rms_norm_backward)(const T* dy_MK, const T* x_MK, const T* g_K, const Sum* rstd_M, const T* residual_MK,
                            int64_t m, int64_t k, T* dx_MK, Sum* dg_K);
  // y = silu(gate) * up, gate and up side by side in a row of 2 K.
  void (*swiglu)(const T* gate_up, int64_t m, int64_t k, T* y_MK);
  void (*swiglu_backward)(const T* dy_MK, const T* gate_up, int64_t m, int64_t k, T* dgate_up);
  // Rotates pairs (i, i + D/2) of `heads` heads in place; cos, sin [P, D/2] are read at positions; sign -1 turns back.
  void (*rope)(T* x, int64_t pitch, const int64_t* position_M, const float* cos, const float* sin, int64_t m,
               int64_t heads, int64_t d, float sign);
  // y = mask * scale * x
  void (*dropout)(const T* x_MK, const DropoutCounters& c, int64_t m, int64_t k, T* y_MK);
  // y += mask * scale * x
  void (*dropout_add)(const T* x_MK, const DropoutCounters& c, int64_t m, int64_t k, T* y_MK);
  // loss_M = logsumexp(x) - x[label]; x becomes softmax(x) - onehot(label) where `gradient`.
  void (*cross_entropy)(T* x_MV, const int64_t* label_M, int64_t m, int64_t v, bool gradient, double* loss_M);
};

struct Loops {
  const char* name;
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
