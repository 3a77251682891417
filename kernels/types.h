// Types that the parameter structs of the kernels share. It includes no CUDA and no torch header, because both the ops
// and the .cu files include it.
// Letters, in all kernels: M tokens (rows), K inputs, N outputs, R columns of all low-rank updates of a projection
// (each update padded to a multiple of 8), V vocabulary, D head size. Matrices are row-major; ld (pitch) is the
// distance between rows, in elements. Pointers are device memory.
#pragma once

#include <cstdint>
#include <stdexcept>

#if defined(__CUDACC__)
#define RANKFOLD_HOST_DEVICE __host__ __device__
#else
#define RANKFOLD_HOST_DEVICE
#endif

struct CUstream_st;

namespace rankfold::kernels {

using Stream = CUstream_st*;

// A launch or a product failed; the text names the kernel.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Dtype : int32_t { f32, bf16, f16 };

// Multiprocessors (SMs) of an H100. Kernels choose the number of partial sums of a gradient for this number, whatever
// the device, so that every device adds in the same order.
constexpr int64_t kMultiprocessors = 132;

constexpr int64_t size_of(Dtype dtype) { return dtype == Dtype::f32 ? 4 : 2; }
RANKFOLD_HOST_DEVICE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
RANKFOLD_HOST_DEVICE constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// The random numbers of dropout (src/ops/dropout.h): Philox 4x32-10 with key = seed and counter = (row within the
// accumulation window, position in the row, block + feature / 8, stream).
struct Dropout {
  const int32_t* row_M = nullptr;
  const int32_t* position_M = nullptr;
  uint64_t key = 0;
  uint32_t threshold = 0;  // of 65536: a 16-bit draw below it drops the element; 0: no dropout
};

// One low-rank update of a projection. It owns columns [begin, end) of S and dS, and rows [begin, end) of A. Those
// beyond its rank are zero in the copies of A and B.
struct Update {
  int32_t begin = 0, end = 0;      // multiples of 8
  uint32_t stream = 0, block = 0;  // of its dropout counters: they encode step and module
  float scale = 1;                 // of the update, times 1 / (1 - p), where p = threshold / 65536
};

constexpr int kMostUpdates = 12;  // of one projection: q, k and v of four adapters

struct Updates {
  int32_t count = 0;
  Update update[kMostUpdates] = {};
  Dropout dropout = {};

  RANKFOLD_HOST_DEVICE int64_t columns() const { return count == 0 ? 0 : update[count - 1].end; }
};

// How a projection's input x [M, K] is computed from the tensor that is saved for backward.
enum class Source : int32_t {
  plain,  // x is given
  norm,   // x = h * rstd * (gain + gain_offset), RMSNorm of h [M, K]
  glu,    // x = act(gate) * up of gate_up [M, 2 K]
};

// act(x) = x * sigmoid(linear * x + cubic * x^3): SiLU, or GELU in its tanh form.
struct Gate {
  float linear = 1, cubic = 0;
};

}  // namespace rankfold::kernels
