// Kernel of dequantize.h.
// Traffic  codes and scales in, elements out, each once: nf4 with nested scales to bfloat16 is 0.516 + 2 bytes an
//          element. Tables, and scales that neighbours share, come from the L1 cache.
// Work     a warp decodes 512 columns of a row. A lane decodes eight neighbours of one scale, twice: one load of their
//          codes, one 16-byte store of 16-bit elements. Other layouts of codes, scales or result take a second variant,
//          in which a lane decodes single elements, 32 columns apart.
#include "kernels/dequantize.h"

#include "kernels/launch.h"
#include "kernels/slices.h"
#include "kernels/tile.h"

#include <bit>
#include <limits>

namespace rankfold::kernels {
namespace {

constexpr int kThreads = 256, kRows = kThreads / kWarp, kPieces = 2, kColumns = kPieces * kWarp * 8;  // of a block

struct Params {
  Dequantize p;
  uint32_t row_blocks = 0;  // blocks of a row
  // Of sizes of blocks and nested blocks, which are powers of two where a lane makes eight neighbours.
  int32_t block_shift = 0, nested_shift = 0;
};

// Exponent and fraction of an E4M3 number lie as those of a float of 2^-120 times its value, also where it is
// subnormal.
__device__ __forceinline__ float e4m3(uint32_t bits) {
  if ((bits & 0x7f) == 0x7f) return float_of(0x7fc00000);
  return float_of((bits & 0x80) << 24 | (bits & 0x7f) << 20) * 0x1p120f;
}

__device__ __forceinline__ float rounded_to(Dtype dtype, float x) {
  if (dtype == Dtype::bf16) return to_float(from_float<Bf16>(x));
  if (dtype == Dtype::f16) return to_float(from_float<F16>(x));
  return x;
}

__device__ __forceinline__ void round_to(Dtype dtype, float (&x)[8]) {
  if (dtype == Dtype::bf16) return unpack(pack_row<Bf16, 8>(x), x);
  if (dtype == Dtype::f16) return unpack(pack_row<F16, 8>(x), x);
}

// Of block b, whose nested block is `nested`.
__device__ __forceinline__ float scale_of_block(const Packed& w, int64_t b, int64_t nested) {
  if (!w.nested_codes) return w.scale[b];
  return __fadd_rn(__fmul_rn(w.nested_table[w.nested_codes[b]], w.scale[nested]), w.offset);  // never one operation
}

// code: a number of the packing.
template <Packing kPacking>
__device__ __forceinline__ float value_of(uint32_t code, float scale) {
  if constexpr (kPacking == Packing::fp8) {
    return e4m3(code) * scale;
  } else {
    static_assert(kPacking == Packing::int8);
    return static_cast<float>(static_cast<int8_t>(code)) * scale * kInt8Unit;
  }
}
__device__ __forceinline__ float value_of_group(uint32_t code, uint32_t zero, float scale) {
  return static_cast<float>(static_cast<int32_t>(code) - static_cast<int32_t>(zero)) * scale;
}

// ---- One element, wherever it lies.

template <Packing kPacking>
__device__ __forceinline__ float element(const Packed& w, int64_t n, int64_t k) {
  const auto* bytes = static_cast<const uint8_t*>(w.codes);
  const int64_t i = n * w.k + k;
  if constexpr (kPacking == Packing::plain) {
    if (w.stored == Dtype::bf16) return to_float(static_cast<const Bf16*>(w.codes)[i]);
    if (w.stored == Dtype::f16) return to_float(static_cast<const F16*>(w.codes)[i]);
    return static_cast<const float*>(w.codes)[i];
  } else if constexpr (kPacking == Packing::table) {
    const uint32_t byte = bytes[i / 2];
    const int64_t b = i / w.block;
    return w.table[i % 2 ? byte & 15 : byte >> 4] * scale_of_block(w, b, w.nested_codes ? b / w.nested_block : 0);
  } else {
    const bool listed = kPacking == Packing::grouped && w.group_of;
    const int64_t group = listed ? w.group_of[k] : k / w.scale_columns;
    const int64_t at = n / w.scale_rows * w.ld_scale + group;
    if constexpr (kPacking == Packing::grouped) {
      const uint32_t byte = bytes[n * w.ld_codes + (w.bits == 4 ? k / 2 : k)];
      const uint32_t code = w.bits == 8 ? byte : k % 2 ? byte >> 4 : byte & 15;
      return value_of_group(code, w.zero[at], w.scale[at]);
    } else {
      return value_of<kPacking>(bytes[i], w.scale[at]);
    }
  }
}

// ---- Eight neighbours, the first at a multiple of 8.

// Eight codes of a byte each.
struct Bytes {
  Word2 word;

  __device__ explicit Bytes(const void* p) : word(load_words<Word2>(p)) {}
  __device__ uint32_t operator[](int j) const { return (j < 4 ? word.x : word.y) >> 8 * (j % 4) & 0xff; }
};

template <class T>
__device__ __forceinline__ void load_plain(const void* codes, int64_t i, float (&x)[8]) {
  unpack(load_row<T, 8>(static_cast<const T*>(codes) + i), x);
}

__device__ __forceinline__ void eight_of_group(const Packed& w, int64_t n, int64_t k, int64_t scales, float (&x)[8]) {
  const uint8_t* codes = static_cast<const uint8_t*>(w.codes) + n * w.ld_codes + (w.bits == 4 ? k / 2 : k);
  uint32_t code[8];
  if (w.bits == 4) {
    const uint32_t word = load_word(codes);
#pragma unroll
    for (int j = 0; j < 8; ++j) code[j] = word >> 4 * j & 15;
  } else {
    const Bytes bytes(codes);
#pragma unroll
    for (int j = 0; j < 8; ++j) code[j] = bytes[j];
  }
  if (w.group_of) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int64_t at = scales + w.group_of[k + j];
      x[j] = value_of_group(code[j], w.zero[at], w.scale[at]);
    }
  } else {
    const int64_t at = scales + static_cast<uint32_t>(k) / static_cast<uint32_t>(w.scale_columns);
    const uint32_t zero = w.zero[at];
    const float scale = w.scale[at];
#pragma unroll
    for (int j = 0; j < 8; ++j) x[j] = value_of_group(code[j], zero, scale);
  }
}

template <Packing kPacking>
__device__ __forceinline__ void eight(const Params& params, int64_t n, int64_t k, float (&x)[8]) {
  const Packed& w = params.p.weight;
  const auto* bytes = static_cast<const uint8_t*>(w.codes);
  const int64_t i = n * w.k + k;
  if constexpr (kPacking == Packing::plain) {
    if (w.stored == Dtype::bf16) return load_plain<Bf16>(w.codes, i, x);
    if (w.stored == Dtype::f16) return load_plain<F16>(w.codes, i, x);
    load_plain<float>(w.codes, i, x);
  } else if constexpr (kPacking == Packing::table) {
    const uint32_t word = load_word(bytes + i / 2);
    const int64_t b = i >> params.block_shift;
    const float scale = scale_of_block(w, b, b >> params.nested_shift);
#pragma unroll
    for (int j = 0; j < 8; ++j) x[j] = w.table[word >> (j % 2 ? 4 * j - 4 : 4 * j + 4) & 15] * scale;
  } else {
    const int64_t scales = static_cast<uint32_t>(n) / static_cast<uint32_t>(w.scale_rows) * w.ld_scale;
    if constexpr (kPacking == Packing::grouped) {
      eight_of_group(w, n, k, scales, x);
    } else {
      const Bytes codes(bytes + i);
      const float scale = w.scale[scales + static_cast<uint32_t>(k) / static_cast<uint32_t>(w.scale_columns)];
#pragma unroll
      for (int j = 0; j < 8; ++j) x[j] = value_of<kPacking>(codes[j], scale);
    }
  }
}

// ---- The kernel

template <class T, Packing kPacking, bool kEight>
__global__ void __launch_bounds__(kThreads, 4) dequantize_kernel(const __grid_constant__ Params params) {
  const Dequantize& p = params.p;
  const Packed& w = p.weight;
  const uint32_t lane = threadIdx.x % kWarp;
  const int64_t row = int64_t{blockIdx.x / params.row_blocks} * kRows + threadIdx.x / kWarp, n = p.begin + row;
  if (n >= p.end) return;
  T* out = static_cast<T*>(p.out) + row * p.ld_out;
  const int64_t first = int64_t{blockIdx.x % params.row_blocks} * kColumns;
  if constexpr (kEight) {
    // All loads before the first store, which loads cannot pass. Beyond the row's end its last piece is made again.
    float x[kPieces][8];
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      const int64_t k = first + (piece * kWarp + lane) * 8;
      eight<kPacking>(params, n, k < w.k ? k : w.k - 8, x[piece]);
    }
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      const int64_t k = first + (piece * kWarp + lane) * 8;
      round_to(w.rounded, x[piece]);
      if (k < w.k) store_row(out + k, pack_row<T, 8>(x[piece]));
    }
  } else {
    const int64_t end = first + kColumns < w.k ? first + kColumns : w.k;
#pragma unroll 1
    for (int64_t k = first + lane; k < end; k += kWarp)
      out[k] = from_float<T>(rounded_to(w.rounded, element<kPacking>(w, n, k)));
  }
}

bool is_power_of_two(int64_t x) { return x > 0 && std::has_single_bit(static_cast<uint64_t>(x)); }
int32_t shift_of(int64_t power) { return is_power_of_two(power) ? std::countr_zero(static_cast<uint64_t>(power)) : 0; }

bool is_multiple(const void* x, int64_t ld, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(x) % static_cast<uintptr_t>(bytes) == 0 && ld % bytes == 0;
}

// Whether eight neighbours have one scale, or one list of groups, and codes that one access loads.
bool eight_together(const Packed& w) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();  // division is of 32 bits
  if (w.k % 8 != 0 || w.n > kMost || w.k > kMost || w.scale_rows > kMost || w.scale_columns > kMost) return false;
  switch (w.packing) {
    case Packing::plain:
      return is_aligned(w.codes);
    case Packing::table:
      return is_multiple(w.codes, 0, 4) && w.block >= 8 && is_power_of_two(w.block) &&
             (!w.nested_codes || is_power_of_two(w.nested_block));
    case Packing::int8:
    case Packing::fp8:
      return is_multiple(w.codes, 0, 8) && w.scale_columns % 8 == 0;
    case Packing::grouped:
      return is_multiple(w.codes, w.ld_codes, w.bits) &&  // eight codes are as many bytes as one has bits
             (w.group_of || w.scale_columns % 8 == 0);
  }
  return false;
}

template <class F>
void with_packing(Packing packing, F&& f) {
  switch (packing) {
    case Packing::plain:
      return f(std::integral_constant<Packing, Packing::plain>());
    case Packing::table:
      return f(std::integral_constant<Packing, Packing::table>());
    case Packing::int8:
      return f(std::integral_constant<Packing, Packing::int8>());
    case Packing::fp8:
      return f(std::integral_constant<Packing, Packing::fp8>());
    case Packing::grouped:
      return f(std::integral_constant<Packing, Packing::grouped>());
  }
}

}  // namespace

void dequantize(const Dequantize& p, Stream stream) {
  const int64_t row_blocks = ceil_div(p.weight.k, kColumns);
  Params params{p, static_cast<uint32_t>(row_blocks), shift_of(p.weight.block), shift_of(p.weight.nested_block)};
  Packed& w = params.p.weight;
  if (w.rounded == p.dtype) w.rounded = Dtype::f32;  // the store rounds to it anyway
  if (w.scale_columns == 0) w.scale_columns = w.k;
  const bool together = is_aligned(p.out, p.ld_out) && eight_together(w);
  const Grid grid{ceil_div(p.end - p.begin, kRows) * row_blocks};
  with_dtype(p.dtype, [&]<class T>(T) {
    with_packing(p.weight.packing, [&]<Packing kPacking>(std::integral_constant<Packing, kPacking>) {
      launch("dequantize", together ? dequantize_kernel<T, kPacking, true> : dequantize_kernel<T, kPacking, false>,
             grid, kThreads, 0, stream, params);
    });
  });
}

}  // namespace rankfold::kernels
