// Kernel of rope.h.
// Traffic  q, k (and v where it moves) once in and out; cos and sin from the second-level cache.
// Work     a thread turns eight pairs of one head of one token, or moves sixteen values of v; no communication.
#include "kernels/rope.h"

#include "kernels/launch.h"
#include "kernels/slices.h"
#include "kernels/tile.h"

namespace rankfold::kernels {
namespace {

constexpr int kThreads = 256;

struct Params {
  Rope p;
  int32_t groups;  // of eight pairs in a head
  int64_t work;    // threads that have something to do
  int32_t heads;   // that are worked on: with v's where it moves
};

template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads, 4) rope_kernel(const __grid_constant__ Params params) {
  const Rope& p = params.p;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= params.work) return;
  const int group = static_cast<int>(i % params.groups), head = static_cast<int>(i / params.groups % params.heads);
  const int64_t row = i / params.groups / params.heads, half = p.d / 2, pair = int64_t{group} * 8, left = half - pair;
  const T* from;
  if (head < p.query_heads) {
    from = static_cast<const T*>(p.q) + row * p.ld_q + head * p.d;
  } else if (head < p.query_heads + p.key_value_heads) {
    from = static_cast<const T*>(p.k) + row * p.ld_k + (head - p.query_heads) * p.d;
  } else {
    from = static_cast<const T*>(p.v) + row * p.ld_v + (head - p.query_heads - p.key_value_heads) * p.d;
  }
  T* to = static_cast<T*>(p.out) + row * p.ld_out + head * p.d;
  Row<T, 8> first = load_some<kAligned>(from + pair, left), second = load_some<kAligned>(from + half + pair, left);
  if (head < p.query_heads + p.key_value_heads) {
    const float* cos = p.cos + p.position_M[row] * half + pair;
    const float* sin = p.sin + p.position_M[row] * half + pair;
    float x[8], y[8], c[8], s[8];
    unpack(first, x);
    unpack(second, y);
    unpack(load_some<kAligned>(cos, left), c);
    unpack(load_some<kAligned>(sin, left), s);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float turned = p.sign * s[j], old = x[j];
      x[j] = old * c[j] - y[j] * turned;
      y[j] = y[j] * c[j] + old * turned;
    }
    first = pack_row<T, 8>(x);
    second = pack_row<T, 8>(y);
  }
  store_some<kAligned>(to + pair, first, left);
  store_some<kAligned>(to + half + pair, second, left);
}

}  // namespace

void rope(const Rope& p, Stream stream) {
  const bool in_place = p.q == p.out;
  const auto groups = static_cast<int32_t>(ceil_div(p.d / 2, 8));
  const auto heads = static_cast<int32_t>(p.query_heads + p.key_value_heads * (in_place ? 1 : 2));
  const Params params{p, groups, p.m * heads * groups, heads};
  const bool aligned = p.d % 16 == 0 && is_aligned(p.q, p.ld_q) && is_aligned(p.k, p.ld_k) && is_aligned(p.v, p.ld_v) &&
                       is_aligned(p.out, p.ld_out) && is_aligned(p.cos) && is_aligned(p.sin);
  with_dtype(p.dtype, [&]<class T>(T) {
    launch("rope", aligned ? rope_kernel<T, true> : rope_kernel<T, false>, {ceil_div(params.work, kThreads)}, kThreads,
           0, stream, params);
  });
}

}  // namespace rankfold::kernels
