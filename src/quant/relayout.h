// Other layouts of codes into kernels::Packing::grouped: rows of N, each with its K codes from low bits to high ones.
// On all cores. Numbers in files are little-endian, and so are those of the machines that this runs on.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace rankfold {

// gptq: int32 [P, N], each word with codes along K; into bytes [N, 4 P].
at::Tensor codes_of_columns(const at::Tensor& words);
// awq: int32 [K, N / 8], each word with 8 nibbles along N, in their order 0 2 4 6 1 3 5 7; into bytes [N, (K + 1) / 2].
at::Tensor codes_of_awq(const at::Tensor& words);
// int8 into bytes that are 128 more.
at::Tensor codes_of_int8(const at::Tensor& signed_codes);

// Zero points in words along N, of `bits` bits, into uint8 [N, groups].
enum class ZeroOrder {
  gptq,    // words [groups, N bits / 32]
  awq,     // the same, in awq's order of nibbles
  packed,  // words [ceil(N bits / 32), groups]
};
// `more` is added to each, modulo 2^bits.
at::Tensor zeros_of(const at::Tensor& words, ZeroOrder order, int bits, int64_t rows, int64_t groups, int more);

bool is_finite(const at::Tensor& values);  // fp32, contiguous

}  // namespace rankfold
