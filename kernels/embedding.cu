// Kernel of embedding.h.
// Traffic  M rows of K in and out.
// Work     a thread copies eight neighbouring elements.
#include "kernels/embedding.h"

#include "kernels/launch.h"
#include "kernels/slices.h"
#include "kernels/tile.h"

namespace rankfold::kernels {
namespace {

constexpr int kThreads = 256;

template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads, 4) embedding_kernel(const __grid_constant__ Embedding p) {
  const int64_t groups = ceil_div(p.k, 8), i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.m * groups) return;
  const int64_t row = i / groups, feature = i % groups * 8;
  const T* from = static_cast<const T*>(p.table) + p.token_M[row] * p.ld_table + feature;
  store_some<kAligned>(static_cast<T*>(p.y) + row * p.ld_y + feature, load_some<kAligned>(from, p.k - feature),
                       p.k - feature);
}

}  // namespace

void embedding(const Embedding& p, Stream stream) {
  const bool aligned = p.k % 8 == 0 && is_aligned(p.table, p.ld_table) && is_aligned(p.y, p.ld_y);
  with_dtype(p.dtype, [&]<class T>(T) {
    launch("embedding", aligned ? embedding_kernel<T, true> : embedding_kernel<T, false>,
           {ceil_div(p.m * ceil_div(p.k, 8), kThreads)}, kThreads, 0, stream, p);
  });
}

}  // namespace rankfold::kernels
