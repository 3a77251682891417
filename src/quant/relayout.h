// Converts codes of other layouts to kernels::Packing::grouped: N rows, each with its K codes from low bits to high
// bits. Runs on all cores. Requires a little-endian machine, because files are little-endian.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace rankfold {

// gptq: int32 [P, N], each word with codes along K. Returns bytes [N, 4 P].
at::Tensor codes_of_columns(const at::Tensor& words);
// awq: int32 [K, N / 8], each word with 8 nibbles along N, in the order 0 2 4 6 1 3 5 7. Returns bytes [N, (K + 1) /
// 2].
at::Tensor codes_of_awq(const at::Tensor& words);
// Converts int8 to uint8 by adding 128.
at::Tensor codes_of_int8(const at::Tensor& signed_codes);

// Unpacks zero points of `bits` bits in words along N, to uint8 [N, groups].
enum class ZeroOrder {
  gptq,    // words [groups, N bits / 32]
  awq,     // the same, with awq's order of nibbles
  packed,  // words [ceil(N bits / 32), groups]
};
// `more` is added to each, modulo 2^bits.
at::Tensor zeros_of(const at::Tensor& words, ZeroOrder order, int bits, int64_t rows, int64_t groups, int more);

bool is_finite(const at::Tensor& values);  // fp32, contiguous

}  // namespace rankfold
