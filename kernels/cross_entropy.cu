// Kernels of cross_entropy.h.
// Traffic  the logits of a row in, and, with `gradient`, in once more and out: 3 M V sizeof(T), of which the second
//          read hits the L2 in part. M=2048 V=64000 bf16: 524 to 786 MB, 156 to 235 us at the 3.35 TB/s of an H100.
// Work     a block a row. Every thread keeps the largest value it saw and the sum of exponentials relative to it.
//          Shuffles merge these pairs within a warp, then across warps, always in the same order.
#include "kernels/cross_entropy.h"

#include "kernels/launch.h"
#include "kernels/slices.h"
#include "kernels/tile.h"

namespace rankfold::kernels {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;

// Sum of e^(x - largest) over some x.
struct LogSum {
  float largest, sum;
};
__device__ __forceinline__ LogSum merge(const LogSum& a, const LogSum& b) {
  const float largest = fmaxf(a.largest, b.largest);
  if (largest == -INFINITY) return {largest, a.sum + b.sum};  // zero, or NaN
  return {largest, a.sum * expf(a.largest - largest) + b.sum * expf(b.largest - largest)};
}

template <class T>
__device__ __forceinline__ float hyperbolic_tangent(float x) {
  if constexpr (kIs16Bit<T>) {
    return 2 * sigmoid<T>(2 * x) - 1;
  } else {
    return tanhf(x);
  }
}

template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads, 2) cross_entropy_kernel(const __grid_constant__ CrossEntropy p) {
  const int64_t row = blockIdx.x;
  T* logits = static_cast<T*>(p.logits) + row * p.ld;
  const int64_t label = p.label_M[row], step = kThreads * 8;
  Shared shared;
  LogSum* warps = shared.take<LogSum>(kWarps);
  const float inverse_cap = p.soft_cap > 0 ? 1 / p.soft_cap : 0;
  const auto capped = [&](float x) { return p.soft_cap > 0 ? p.soft_cap * hyperbolic_tangent<T>(x * inverse_cap) : x; };
  const auto load = [&](int64_t i, float(&z)[8]) {
    unpack(load_some<kAligned>(logits + i, p.v - i), z);
#pragma unroll
    for (int j = 0; j < 8; ++j) z[j] = capped(z[j]);
  };

  // A NaN goes through every comparison into the sum, so that it reaches the loss.
  LogSum mine{-INFINITY, 0};
  if (label >= 0) {
    for (int64_t i = int64_t{threadIdx.x} * 8; i < p.v; i += step) {
      float z[8];
      load(i, z);
      float largest = mine.largest;
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if (kAligned || i + j < p.v) largest = fmaxf(largest, z[j]);
      if (largest > mine.largest) mine.sum *= exponential<T>(mine.largest - largest);
      mine.largest = largest;
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if ((kAligned || i + j < p.v) && z[j] != -INFINITY) mine.sum += exponential<T>(z[j] - largest);
    }
  }
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) {
    const LogSum other{__shfl_xor_sync(0xffffffffu, mine.largest, lane), __shfl_xor_sync(0xffffffffu, mine.sum, lane)};
    mine = merge(mine, other);
  }
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = mine;
  __syncthreads();
  LogSum all = warps[0];
  for (int w = 1; w < kWarps; ++w) all = merge(all, warps[w]);
  const float log_sum = all.largest + logf(all.sum);

  if (threadIdx.x == 0) p.loss_M[row] = label < 0 ? 0.0f : log_sum - capped(to_float(logits[label]));
  if (!p.gradient) return;
  __syncthreads();  // the loss has read its logit before the logits are written
  for (int64_t i = int64_t{threadIdx.x} * 8; i < p.v; i += step) {
    float z[8];
    load(i, z);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float bent = p.soft_cap > 0 ? z[j] * inverse_cap : 0;
      z[j] = label < 0 ? 0.0f : exponential<T>(z[j] - log_sum) - (i + j == label ? 1.0f : 0.0f);
      z[j] *= 1 - bent * bent;
    }
    store_some<kAligned>(logits + i, pack_row<T, 8>(z), p.v - i);
  }
}

}  // namespace

void cross_entropy(const CrossEntropy& p, Stream stream) {
  with_dtype(p.dtype, [&]<class T>(T) {
    launch("cross_entropy",
           is_aligned(p.logits, p.ld) && p.v % 8 == 0 ? cross_entropy_kernel<T, true> : cross_entropy_kernel<T, false>,
           {p.m}, kThreads, shared_bytes<LogSum>(kWarps), stream, p);
  });
}

}  // namespace rankfold::kernels
