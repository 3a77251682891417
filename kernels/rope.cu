// Kernel of rope.h.
// Traffic  q, k (and v unless rope works in place) once in and out; cos and sin from the L2 cache. With gains a thread
//          reads the rest of its head from the L1 cache: other threads of the head read it too.
// Work     a thread computes eight pairs of one head of one token, or copies sixteen values of v. Threads do not
//          communicate: with gains each sums the squares of its whole head.
#include "kernels/rope.h"

#include "kernels/launch.h"
#include "kernels/slices.h"
#include "kernels/tile.h"

namespace rankfold::kernels {
namespace {

constexpr int kThreads = 256;

struct Params {
  Rope p;
  int32_t groups, turned;  // of eight pairs in a head; those that are turned come first
  int64_t work;            // threads that have something to do
  int32_t heads;           // that are worked on: with v's where it moves
};

// Eight pairs of a head: features begin + pair and begin + pair + half, of which `left` are there.
struct Pairs {
  int64_t begin, half, pair, left;
  bool is_turned;

  __device__ Pairs(const Params& params, int group) {
    is_turned = group < params.turned;
    begin = is_turned ? 0 : params.p.rotary;
    half = (is_turned ? params.p.rotary : params.p.d - params.p.rotary) / 2;
    pair = int64_t{is_turned ? group : group - params.turned} * 8;
    left = half - pair;
  }
  __device__ int64_t first() const { return begin + pair; }
  __device__ int64_t second() const { return begin + half + pair; }
};

struct PairValues {
  float first[8], second[8];
};

template <bool kAligned, class T>
__device__ __forceinline__ PairValues load_pairs(const T* head, const Pairs& at) {
  PairValues x;
  unpack(load_some<kAligned>(head + at.first(), at.left), x.first);
  unpack(load_some<kAligned>(head + at.second(), at.left), x.second);
  return x;
}

template <bool kAligned>
__device__ __forceinline__ void turn(const Rope& p, int64_t row, const Pairs& at, PairValues& x) {
  if (!at.is_turned) return;
  const int64_t angle = p.line_M[row] * at.half + at.pair;
  float c[8], s[8];
  unpack(load_some<kAligned>(p.cos + angle, at.left), c);
  unpack(load_some<kAligned>(p.sin + angle, at.left), s);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float turned = p.sign * s[j], old = x.first[j];
    x.first[j] = old * c[j] - x.second[j] * turned;
    x.second[j] = x.second[j] * c[j] + old * turned;
  }
}

template <bool kAligned, class T>
__device__ __forceinline__ float mean_square(const T* head, int64_t d) {
  float sum = 0;
  for (int64_t i = 0; i < d; i += 8) {
    float x[8];
    unpack(load_some<kAligned>(head + i, d - i), x);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum += x[j] * x[j];
  }
  return sum / static_cast<float>(d);
}

// The head normalised, then turned.
template <bool kAligned, class T>
__device__ __forceinline__ PairValues normalised(const Params& params, int64_t row, const T* head, const T* gain,
                                                 float eps, const Pairs& at) {
  PairValues x = load_pairs<kAligned>(head, at);
  const PairValues g = load_pairs<kAligned>(gain, at);
  const float offset = params.p.gain_offset;
  const float rstd = 1 / sqrtf(mean_square<kAligned>(head, params.p.d) + eps);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    x.first[j] = x.first[j] * rstd * (g.first[j] + offset);
    x.second[j] = x.second[j] * rstd * (g.second[j] + offset);
  }
  turn<kAligned>(params.p, row, at, x);
  return x;
}

// dx = rstd * (dy gain - x rstd^2 mean(dy gain x)), dy the head's gradient turned back.
template <bool kAligned, class T>
__device__ __forceinline__ PairValues normalised_back(const Params& params, int64_t row, const T* gradient,
                                                      const T* head, const T* gain, float eps, const Pairs& at) {
  float dot = 0;
  PairValues result{};
  for (int group = 0; group < params.groups; ++group) {
    const Pairs there(params, group);
    PairValues dy = load_pairs<kAligned>(gradient, there);
    turn<kAligned>(params.p, row, there, dy);
    const PairValues g = load_pairs<kAligned>(gain, there), x = load_pairs<kAligned>(head, there);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      dy.first[j] *= g.first[j] + params.p.gain_offset;
      dy.second[j] *= g.second[j] + params.p.gain_offset;
      dot += dy.first[j] * x.first[j] + dy.second[j] * x.second[j];
    }
    if (there.begin == at.begin && there.pair == at.pair) result = dy;
  }
  const PairValues x = load_pairs<kAligned>(head, at);
  const float rstd = 1 / sqrtf(mean_square<kAligned>(head, params.p.d) + eps);
  const float c = rstd * rstd * dot / static_cast<float>(params.p.d);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    result.first[j] = rstd * (result.first[j] - x.first[j] * c);
    result.second[j] = rstd * (result.second[j] - x.second[j] * c);
  }
  return result;
}

// The place of a head where each key/value head follows `group` query heads and its value head follows it.
__device__ __forceinline__ int64_t grouped(const Rope& p, int64_t head, int64_t group) {
  if (head < p.query_heads) return head / group * (group + 2) + head % group;
  const int64_t key = head - p.query_heads, value = key - p.key_value_heads;
  return value < 0 ? key * (group + 2) + group : value * (group + 2) + group + 1;
}

template <class T, bool kAligned, bool kNorm>
__global__ void __launch_bounds__(kThreads, kNorm ? 2 : 4) rope_kernel(const __grid_constant__ Params params) {
  const Rope& p = params.p;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= params.work) return;
  const int group = static_cast<int>(i % params.groups), head = static_cast<int>(i / params.groups % params.heads);
  const int64_t row = i / params.groups / params.heads;
  const Pairs at(params, group);
  const bool is_q = head < p.query_heads, is_v = head >= p.query_heads + p.key_value_heads;
  const T* from;
  if (p.from_group > 0) {
    from = static_cast<const T*>(p.q) + row * p.ld_q + grouped(p, head, p.from_group) * p.d;
  } else if (is_q) {
    from = static_cast<const T*>(p.q) + row * p.ld_q + head * p.d;
  } else if (!is_v) {
    from = static_cast<const T*>(p.k) + row * p.ld_k + (head - p.query_heads) * p.d;
  } else {
    from = static_cast<const T*>(p.v) + row * p.ld_v + (head - p.query_heads - p.key_value_heads) * p.d;
  }
  T* to = static_cast<T*>(p.out) + row * p.ld_out + (p.to_group > 0 ? grouped(p, head, p.to_group) : head) * p.d;
  PairValues x;
  if (!kNorm || is_v) {
    x = load_pairs<kAligned>(from, at);
    if (!is_v) turn<kAligned>(p, row, at, x);
  } else {
    const T* gain = static_cast<const T*>(is_q ? p.q_gain_D : p.k_gain_D);
    const float eps = is_q ? p.q_eps : p.k_eps;
    x = p.sign > 0 ? normalised<kAligned>(params, row, from, gain, eps, at)
                   : normalised_back<kAligned>(params, row, from,
                                               static_cast<const T*>(p.x) + row * p.ld_x + head * p.d, gain, eps, at);
  }
  store_some<kAligned>(to + at.first(), pack_row<T, 8>(x.first), at.left);
  store_some<kAligned>(to + at.second(), pack_row<T, 8>(x.second), at.left);
}

}  // namespace

void rope(const Rope& p, Stream stream) {
  const bool in_place = p.q == p.out, norm = p.q_gain_D != nullptr;
  const auto turned = static_cast<int32_t>(ceil_div(p.rotary / 2, 8));
  const auto groups = turned + static_cast<int32_t>(ceil_div((p.d - p.rotary) / 2, 8));
  const auto heads = static_cast<int32_t>(p.query_heads + p.key_value_heads * (in_place ? 1 : 2));
  const Params params{p, groups, turned, p.m * heads * groups, heads};
  const bool aligned = p.d % 16 == 0 && p.rotary % 16 == 0 && is_aligned(p.q, p.ld_q) && is_aligned(p.k, p.ld_k) &&
                       is_aligned(p.v, p.ld_v) && is_aligned(p.out, p.ld_out) && is_aligned(p.cos) &&
                       is_aligned(p.sin) && is_aligned(p.q_gain_D) && is_aligned(p.k_gain_D) && is_aligned(p.x, p.ld_x);
  with_dtype(p.dtype, [&]<class T>(T) {
    launch("rope",
           norm      ? aligned ? rope_kernel<T, true, true> : rope_kernel<T, false, true>
                : aligned ? rope_kernel<T, true, false>
                     : rope_kernel<T, false, false>,
           {ceil_div(params.work, kThreads)}, kThreads, 0, stream, params);
  });
}

}  // namespace rankfold::kernels
