// Kernels of decode_attention.h.
// Traffic  cache_append: k and v in and out. decode_attention: all keys and values that a token sees, once in:
//          2 key_value_heads D sizeof(T) a position. 16 rows of 2,048 positions, 8 heads of 128, bf16: 134 MB, 28 us at
//          4.8 TB/s, the data sheet's rate of an H200 (32 us at the 4.2 TB/s measured: docs/kernels.md). Queries,
//          results and the partial results of chunks are small beside it.
// Work     decode_attention: a block takes a chunk of positions of one token and up to kHeads query heads of one
//          key/value head. Eight lanes compute the score of a key, a warp the weights of a head. A thread sums eight
//          features over some positions; shared memory collects those sums. decode_sum adds the chunks of a token in
//          their order. Chunks depend on positions alone.
#include "kernels/decode_attention.h"

#include "kernels/launch.h"
#include "kernels/slices.h"
#include "kernels/tile.h"

namespace rankfold::kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kChunk = 128;  // positions
constexpr int kHeads = 4;
constexpr int kLanesOfKey = 8;
constexpr int kKeysAtATime = kThreads / kLanesOfKey;

struct Params {
  DecodeAttention p;
  int32_t chunks, group, head_blocks;  // of a row; query heads of a key/value head; blocks of kHeads in a group
  int32_t pieces, parts;               // of eight features in a head; threads that share a piece
};

// What a block of the attention works on.
struct Place {
  int64_t token, key_head, head;  // head: the first query head
  int heads;
  int64_t begin, end;  // positions of the chunk that the token sees

  __device__ explicit Place(const Params& params) {
    const DecodeAttention& p = params.p;
    const int64_t block = blockIdx.x, blocks = p.key_value_heads * params.head_blocks;
    token = block / blocks;
    key_head = block % blocks / params.head_blocks;
    const int first = static_cast<int>(block % params.head_blocks) * kHeads;
    head = key_head * params.group + first;
    heads = params.group - first < kHeads ? params.group - first : kHeads;
    const int64_t position = p.position_M[token], chunk = blockIdx.y;
    const int64_t seen = p.window > 0 && position >= p.window ? position - p.window + 1 : 0;
    begin = chunk * kChunk > seen ? chunk * kChunk : seen;
    end = chunk * kChunk + kChunk < position + 1 ? chunk * kChunk + kChunk : position + 1;
  }
};

template <class T>
__device__ __forceinline__ float bend(float x) {
  if constexpr (kIs16Bit<T>) {
    return 2 * sigmoid<T>(2 * x) - 1;
  } else {
    return tanhf(x);
  }
}

template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads, 4) decode_kernel(const __grid_constant__ Params params) {
  const DecodeAttention& p = params.p;
  const Place at(params);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const int count = at.end > at.begin ? static_cast<int>(at.end - at.begin) : 0;
  Shared shared;
  float* query = shared.take<float>(kHeads * params.pieces * 8);
  float* score = shared.take<float>(kHeads * kChunk);
  float* sums = shared.take<float>(kHeads * params.parts * params.pieces * 8);
  const int64_t head_of_cache = (p.slot_M[at.token] * p.key_value_heads + at.key_head) * p.capacity + at.begin;
  const T* keys = static_cast<const T*>(p.keys) + head_of_cache * p.d;
  const T* values = static_cast<const T*>(p.values) + head_of_cache * p.d;

  for (int i = thread; i < kHeads * params.pieces; i += kThreads) {
    const int head = i / params.pieces, feature = i % params.pieces * 8;
    const T* q = static_cast<const T*>(p.qkv) + at.token * p.ld_qkv + (at.head + head) * p.d + feature;
    float x[8];
    unpack(load_some<kAligned>(q, head < at.heads ? p.d - feature : 0), x);
#pragma unroll
    for (int j = 0; j < 8; ++j) query[i * 8 + j] = x[j];
  }
  __syncthreads();

  for (int first = 0; first < count; first += kKeysAtATime) {
    const int key = first + thread / kLanesOfKey;
    float dot[kHeads] = {};
    for (int piece = lane % kLanesOfKey; piece < params.pieces; piece += kLanesOfKey) {
      float k[8];
      unpack(load_some<kAligned>(keys + key * p.d + piece * 8, key < count ? p.d - piece * 8 : 0), k);
#pragma unroll
      for (int head = 0; head < kHeads; ++head)
#pragma unroll
        for (int j = 0; j < 8; ++j) dot[head] += k[j] * query[(head * params.pieces + piece) * 8 + j];
    }
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
#pragma unroll
      for (int step = 1; step < kLanesOfKey; step *= 2) dot[head] += __shfl_xor_sync(0xffffffffu, dot[head], step);
      if (lane % kLanesOfKey == 0 && key < count) score[head * kChunk + key] = dot[head];
    }
  }
  __syncthreads();

  // The chunk's results of each head: eight features a piece, then the largest score and the sum of weights.
  const int64_t pitch = p.d + 2;
  float* result = p.workspace + ((at.token * p.query_heads + at.head) * params.chunks + blockIdx.y) * pitch;
  for (int head = warp; head < at.heads; head += kWarps) {
    const float slope = p.slopes ? p.slopes[at.head + head] : 0;
    const int64_t position = p.position_M[at.token];
    float largest = -INFINITY, sum = 0;
    for (int key = lane; key < count; key += kWarp) {
      float x = score[head * kChunk + key] * p.scale;
      if (p.soft_cap > 0) x = p.soft_cap * bend<T>(x / p.soft_cap);
      x -= slope * static_cast<float>(position - at.begin - key);
      score[head * kChunk + key] = x;
      largest = fmaxf(largest, x);
    }
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
    for (int key = lane; key < count; key += kWarp) {
      const float weight = exponential<T>(score[head * kChunk + key] - largest);
      sum += weight;
      score[head * kChunk + key] = to_float(from_float<T>(weight));
    }
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane == 0 && count > 0) {
      result[head * params.chunks * pitch + p.d] = largest;
      result[head * params.chunks * pitch + p.d + 1] = sum;
    }
  }
  __syncthreads();

  const int piece = thread % params.pieces, part = thread / params.pieces;
  float y[kHeads][8] = {};
  if (part < params.parts) {
    for (int key = part; key < count; key += params.parts) {
      float v[8];
      unpack(load_some<kAligned>(values + key * p.d + piece * 8, p.d - piece * 8), v);
#pragma unroll
      for (int head = 0; head < kHeads; ++head) {
        const float weight = head < at.heads ? score[head * kChunk + key] : 0;
#pragma unroll
        for (int j = 0; j < 8; ++j) y[head][j] += weight * v[j];
      }
    }
#pragma unroll
    for (int head = 0; head < kHeads; ++head)
#pragma unroll
      for (int j = 0; j < 8; ++j) sums[((head * params.parts + part) * params.pieces + piece) * 8 + j] = y[head][j];
  }
  __syncthreads();

  const int width = params.pieces * 8;
  for (int i = thread; i < at.heads * width; i += kThreads) {
    const int head = i / width, feature = i % width;
    if (feature < p.d && count > 0)
      result[head * params.chunks * pitch + feature] =
          sum_of_parts(sums + head * params.parts * width, params.parts, width, feature);
  }
}

// A thread eight features of one head of one token.
template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads, 8) decode_sum_kernel(const __grid_constant__ Params params) {
  const DecodeAttention& p = params.p;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.m * p.query_heads * params.pieces) return;
  const int64_t piece = i % params.pieces, head = i / params.pieces % p.query_heads;
  const int64_t token = i / params.pieces / p.query_heads, pitch = p.d + 2, position = p.position_M[token];
  const float* results = p.workspace + (token * p.query_heads + head) * params.chunks * pitch;
  const int64_t first = (p.window > 0 && position >= p.window ? position - p.window + 1 : 0) / kChunk;
  const int64_t last = position / kChunk;
  float largest = -INFINITY, sum = 0, y[8] = {};
  for (int64_t chunk = first; chunk <= last; ++chunk) largest = fmaxf(largest, results[chunk * pitch + p.d]);
  for (int64_t chunk = first; chunk <= last; ++chunk) {
    const float* part = results + chunk * pitch;
    const float share = expf(part[p.d] - largest);
    sum += share * part[p.d + 1];
#pragma unroll
    for (int j = 0; j < 8; ++j)
      if (piece * 8 + j < p.d) y[j] += share * part[piece * 8 + j];
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) y[j] /= sum;
  T* out = static_cast<T*>(p.out) + token * p.ld_out + head * p.d + piece * 8;
  store_some<kAligned>(out, pack_row<T, 8>(y), p.d - piece * 8);
}

// A thread eight features of the key or the value of one head of one token.
template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads, 8) append_kernel(const __grid_constant__ Params params) {
  const DecodeAttention& p = params.p;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, heads = 2 * p.key_value_heads;
  if (i >= p.m * heads * params.pieces) return;
  const int64_t feature = i % params.pieces * 8, head = i / params.pieces % heads, token = i / params.pieces / heads;
  const T* from = static_cast<const T*>(p.qkv) + token * p.ld_qkv + (p.query_heads + head) * p.d + feature;
  const bool is_key = head < p.key_value_heads;
  const int64_t row = p.slot_M[token] * p.key_value_heads + (is_key ? head : head - p.key_value_heads);
  T* to = static_cast<T*>(is_key ? p.keys : p.values) + (row * p.capacity + p.position_M[token]) * p.d + feature;
  store_some<kAligned>(to, load_some<kAligned>(from, p.d - feature), p.d - feature);
}

Params params_of(const DecodeAttention& p) {
  Params params{};
  params.p = p;
  params.chunks = static_cast<int32_t>(ceil_div(p.longest, kChunk));
  params.group = static_cast<int32_t>(p.query_heads / p.key_value_heads);
  params.head_blocks = static_cast<int32_t>(ceil_div(params.group, kHeads));
  params.pieces = static_cast<int32_t>(ceil_div(p.d, 8));
  params.parts = params.pieces < kThreads ? kThreads / params.pieces : 1;
  return params;
}

bool all_aligned(const DecodeAttention& p) {
  return p.d % 8 == 0 && is_aligned(p.qkv, p.ld_qkv) && is_aligned(p.keys) && is_aligned(p.values) &&
         is_aligned(p.out, p.ld_out);
}

}  // namespace

int64_t decode_workspace(const DecodeAttention& p) {
  return p.m * p.query_heads * ceil_div(p.longest, kChunk) * (p.d + 2) * static_cast<int64_t>(sizeof(float));
}

void cache_append(const DecodeAttention& p, Stream stream) {
  const Params params = params_of(p);
  const int64_t work = p.m * 2 * p.key_value_heads * params.pieces;
  with_dtype(p.dtype, [&]<class T>(T) {
    launch("cache_append", all_aligned(p) ? append_kernel<T, true> : append_kernel<T, false>,
           {ceil_div(work, kThreads)}, kThreads, 0, stream, params);
  });
}

void decode_attention(const DecodeAttention& p, Stream stream) {
  constexpr int64_t kWidest = kThreads * 8;
  if (p.d > kWidest) throw Failure("kernel decode_attention: heads of at most " + std::to_string(kWidest));
  const Params params = params_of(p);
  const int64_t shared = shared_bytes<float>(kHeads * params.pieces * 8) + shared_bytes<float>(kHeads * kChunk) +
                         shared_bytes<float>(kHeads * params.parts * params.pieces * 8);
  const int64_t blocks = p.m * p.key_value_heads * params.head_blocks;
  const int64_t work = p.m * p.query_heads * params.pieces;
  with_dtype(p.dtype, [&]<class T>(T) {
    launch("decode_attention", all_aligned(p) ? decode_kernel<T, true> : decode_kernel<T, false>,
           {blocks, params.chunks}, kThreads, shared, stream, params);
    launch("decode_attention sum", all_aligned(p) ? decode_sum_kernel<T, true> : decode_sum_kernel<T, false>,
           {ceil_div(work, kThreads)}, kThreads, 0, stream, params);
  });
}

}  // namespace rankfold::kernels
