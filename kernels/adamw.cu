// Kernels of adamw.h.
// Traffic  adamw: value, both moments in and out, gradient in: 28 bytes a parameter, and its copies out. 8.4 M
//          parameters (W_pack, r 16): 268 MB, 80 us at the 3.35 TB/s of an H100.
// Work     a block has up to 4,096 neighbouring elements of one segment; element i of a segment is row i / cols. A
//          copy is written along rows. The transposed one is written with a stride; its sectors fill up in the L2.
#include "kernels/adamw.h"

#include "kernels/launch.h"
#include "kernels/ptx.h"

#include <limits>
#include <string>

namespace rankfold::kernels {
namespace {

constexpr int kThreads = 256;

// The segment whose blocks `block` is one of: the last that begins at or before it.
__device__ __forceinline__ Segment segment_of(const Segment* segments, int64_t count, int64_t block) {
  int64_t low = 0, high = count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (segments[middle].first_block <= block) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return segments[low];
}

template <class T>
__global__ void __launch_bounds__(kThreads, 4) adamw_kernel(const __grid_constant__ AdamW p) {
  const int64_t block = blockIdx.x;
  const Segment s = segment_of(p.segments, p.segment_count, block);
  const int64_t size = s.rows * s.cols, first = (block - s.first_block) * kSegmentBlock;
  const int64_t end = first + kSegmentBlock < size ? first + kSegmentBlock : size;
  const auto cols = static_cast<uint32_t>(s.cols);  // a 64-bit division takes as long as the rest
  const float decay = s.decays ? p.decay : 0.0f;
  const float step = p.rate / p.correction1, root = sqrtf(p.correction2);
  for (int64_t i = first + threadIdx.x; i < end; i += kThreads) {
    const int64_t at = s.begin + i;
    float value = p.value[at];
    const float g = p.gradient[at] * p.gradient_scale;
    const float m = p.beta1 * p.first_moment[at] + p.rest1 * g;
    const float v = p.beta2 * p.second_moment[at] + p.rest2 * g * g;
    value = value * (1 - p.rate * decay) - step * m / (sqrtf(v) / root + p.eps);
    p.first_moment[at] = m;
    p.second_moment[at] = v;
    p.value[at] = value;
    const int64_t row = static_cast<uint32_t>(i) / cols, column = static_cast<uint32_t>(i) % cols;
    if (s.copy) static_cast<T*>(s.copy)[row * s.ld + column] = from_float<T>(value);
    if (s.transposed) static_cast<T*>(s.transposed)[column * s.ld_transposed + row] = from_float<T>(value);
  }
}

// Sum over the block, in a fixed order.
constexpr int kSumThreads = 256;
__device__ __forceinline__ double sum_of_block(double mine, Shared& shared) {
  double* sums = shared.take<double>(kSumThreads);
  sums[threadIdx.x] = mine;
  __syncthreads();
  for (int step = kSumThreads / 2; step > 0; step /= 2) {
    if (static_cast<int>(threadIdx.x) < step) sums[threadIdx.x] += sums[threadIdx.x + step];
    __syncthreads();
  }
  return sums[0];
}

__global__ void __launch_bounds__(kSumThreads, 4) square_sum_parts_kernel(const __grid_constant__ SquareSum p) {
  Shared shared;
  double sum = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x; i < p.count;
       i += kSquareSumBlocks * kSumThreads)
    sum += static_cast<double>(p.x[i]) * static_cast<double>(p.x[i]);
  sum = sum_of_block(sum, shared);
  if (threadIdx.x == 0) p.workspace[blockIdx.x] = sum;
}
__global__ void __launch_bounds__(kSumThreads, 4) square_sum_kernel(const __grid_constant__ SquareSum p) {
  Shared shared;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < kSquareSumBlocks; i += kSumThreads) sum += p.workspace[i];
  sum = sum_of_block(sum, shared);
  if (threadIdx.x == 0) *p.sum = sum;
}

}  // namespace

int64_t lay_out(Segment* segments, int64_t count) {
  int64_t blocks = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Segment& s = segments[i];
    constexpr int64_t kMostElements = (int64_t{1} << 32) - 1;
    if (s.cols > 0 && s.rows > kMostElements / s.cols)
      throw Failure("kernel adamw: a parameter [" + std::to_string(s.rows) + ", " + std::to_string(s.cols) +
                    "] has more elements than the " + std::to_string(kMostElements) + " that a step can count");
    segments[i].first_block = static_cast<int32_t>(blocks);
    blocks += ceil_div(s.rows * s.cols, kSegmentBlock);
    if (blocks > std::numeric_limits<int32_t>::max())
      throw Failure("kernel adamw: parameters of more than 2^31 blocks of " + std::to_string(kSegmentBlock) +
                    " elements");
  }
  return blocks;
}

void adamw(const AdamW& p, Stream stream) {
  with_dtype(p.dtype, [&]<class T>(T) { launch("adamw", adamw_kernel<T>, {p.block_count}, kThreads, 0, stream, p); });
}

void square_sum(const SquareSum& p, Stream stream) {
  const int64_t bytes = shared_bytes<double>(kSumThreads);
  launch("square_sum parts", square_sum_parts_kernel, {kSquareSumBlocks}, kSumThreads, bytes, stream, p);
  launch("square_sum", square_sum_kernel, {1}, kSumThreads, bytes, stream, p);
}

}  // namespace rankfold::kernels
