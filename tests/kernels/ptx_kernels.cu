#include "kernels/ptx_kernels.h"

#include "kernels/launch.h"
#include "kernels/philox.h"
#include "kernels/ptx.h"

namespace rankfold::kernels::testing {
namespace {

constexpr int kThreads = 256;
constexpr int kCopyThreads = 64;

template <class T>
__global__ void __launch_bounds__(kThreads) conversions_kernel(const __grid_constant__ Conversions p) {
  for (int64_t i = threadIdx.x; i < p.narrow_count; i += kThreads) p.wide[i] = to_float(T{p.narrow_in[i]});
  for (int64_t i = threadIdx.x; i < p.wide_count; i += kThreads) p.narrow[i] = from_float<T>(p.wide_in[i]).bits;
  for (int64_t i = threadIdx.x; i < p.wide_count / 2; i += kThreads)
    p.packed[i] = pack<T>(p.wide_in[2 * i], p.wide_in[2 * i + 1]);
}

__global__ void __launch_bounds__(kThreads) tf32_kernel(const __grid_constant__ Tf32 p) {
  for (int64_t i = threadIdx.x; i < p.count; i += kThreads) p.y[i] = to_tf32(p.x[i]);
}

__global__ void __launch_bounds__(kThreads) approximations_kernel(const __grid_constant__ Approximations p) {
  for (int64_t i = threadIdx.x; i < p.count; i += kThreads) {
    p.exponential[i] = fast_exp(p.x[i]);
    p.reciprocal[i] = fast_reciprocal(p.x[i]);
  }
}

template <class T>
__global__ void __launch_bounds__(kWarp) product_kernel(const __grid_constant__ Product p) {
  const int lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
  const T* a = static_cast<const T*>(p.a);
  const T* b = static_cast<const T*>(p.b);
  float c[4];
  for (int i = 0; i < 4; ++i) c[i] = p.c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  if constexpr (sizeof(T) == 2) {
    const auto pair = [&](const T* x, int row, int column) { return load_word(x + row * 16 + column); };
    mma_k16<T>(c, pair(a, g, 2 * t), pair(a, g + 8, 2 * t), pair(a, g, 2 * t + 8), pair(a, g + 8, 2 * t + 8),
               pair(b, g, 2 * t), pair(b, g, 2 * t + 8));
  } else {
    mma_k8(c, a[g * 8 + t], a[(g + 8) * 8 + t], a[g * 8 + t + 4], a[(g + 8) * 8 + t + 4], b[g * 8 + t],
           b[g * 8 + t + 4]);
  }
  for (int i = 0; i < 4; ++i) p.c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = c[i];
}

__global__ void __launch_bounds__(kWarp) turn_kernel(const __grid_constant__ Turn p) {
  p.y[threadIdx.x] = transpose_8x8(p.x[threadIdx.x]);
}

__global__ void __launch_bounds__(kCopyThreads) copies_kernel(const __grid_constant__ Copies p) {
  Shared shared;
  float* array = shared.take<float>(kCopyThreads * 8);
  const int mine = static_cast<int>(threadIdx.x) * 8;
  copy_async(array + mine, p.x + mine);
  commit_copies();
  copy_async(array + mine + 4, p.x + mine + 4);
  commit_copies();
  wait_copies<1>();
  for (int i = 0; i < 4; ++i) p.own[mine / 2 + i] = array[mine + i];
  wait_copies<0>();
  __syncthreads();
  for (int i = mine; i < mine + 8; ++i) p.all[i] = array[kCopyThreads * 8 - 1 - i];
}

__global__ void __launch_bounds__(kWarp) shuffles_kernel(const __grid_constant__ Shuffles p) {
  const int lane = static_cast<int>(threadIdx.x);
  p.y[lane] = __shfl_xor_sync(0xffffffffu, p.x[lane], 5);
  p.z[lane] = __shfl_sync(0xffffffffu, p.x[lane], (lane * 7 + 3) % kWarp);
}

__global__ void __launch_bounds__(kThreads) random_kernel(const __grid_constant__ Random p) {
  for (int64_t i = threadIdx.x; i < p.count; i += kThreads) {
    const uint32_t* counter = p.counter + 4 * i;
    const Draws draws = philox(p.key[i], counter[0], counter[1], counter[2], counter[3]);
    for (int word = 0; word < 4; ++word) p.words[4 * i + word] = draws.word[word];
  }
}

}  // namespace

void conversions(const Conversions& p, Stream stream) {
  launch("conversions", p.dtype == Dtype::bf16 ? conversions_kernel<Bf16> : conversions_kernel<F16>, {1}, kThreads, 0,
         stream, p);
}

void tf32(const Tf32& p, Stream stream) { launch("tf32", tf32_kernel, {1}, kThreads, 0, stream, p); }

void approximations(const Approximations& p, Stream stream) {
  launch("approximations", approximations_kernel, {1}, kThreads, 0, stream, p);
}

void product(const Product& p, Stream stream) {
  with_dtype(p.dtype, [&]<class T>(T) { launch("product", product_kernel<T>, {1}, kWarp, 0, stream, p); });
}

void turn(const Turn& p, Stream stream) { launch("turn", turn_kernel, {1}, kWarp, 0, stream, p); }

void copies(const Copies& p, Stream stream) {
  launch("copies", copies_kernel, {1}, kCopyThreads, shared_bytes<float>(kCopyThreads * 8), stream, p);
}

void shuffles(const Shuffles& p, Stream stream) { launch("shuffles", shuffles_kernel, {1}, kWarp, 0, stream, p); }

void random_words(const Random& p, Stream stream) { launch("random", random_kernel, {1}, kThreads, 0, stream, p); }

}  // namespace rankfold::kernels::testing
