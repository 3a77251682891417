// Matrices in fewer bits than they are computed in: the tensors that they are made of, decoding, and quantisation.
#pragma once

#include "kernels/packed.h"
#include "rankfold/choices.h"

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace rankfold {

// The tensors behind a kernels::Packed, which says what they mean. They may be views of a mapped file. On one device.
struct PackedWeight {
  kernels::Packing packing = kernels::Packing::plain;
  int64_t rows = 0, columns = 0;
  at::ScalarType rounded = at::kFloat;    // values are rounded to it; kFloat: not rounded
  at::Tensor codes;                       // contiguous
  at::Tensor scale;                       // fp32
  int64_t block = 64;                     // table: elements of a scale
  at::Tensor table;                       // table: fp32 [16]
  at::Tensor nested_codes, nested_table;  // table, nested: uint8 [blocks], fp32 [256]; `scale` is theirs then
  int64_t nested_block = 256;
  float offset = 0;
  int64_t scale_rows = 1, scale_columns = 0;  // others: rows and columns that share a scale
  int32_t bits = 4;                           // grouped
  at::Tensor zero, group_of;                  // grouped: uint8 [rows, groups], int32 [columns] or undefined

  kernels::Packed view() const;  // valid as long as the tensors
  int64_t bytes() const;         // of all tensors
  PackedWeight to(at::Device device) const;
};

namespace ops {

// A weight as it is stored, f32, bf16 or f16 [N, K], contiguous.
PackedWeight plain_weight(const at::Tensor& stored);

// Rows [begin, end) and columns [first, last) of a weight on the CPU into `to` [end - begin, last - first], f32, bf16 or
// f64 with dense rows. On all cores.
void decode(const PackedWeight& weight, int64_t begin, int64_t end, int64_t first, int64_t last, const at::Tensor& to);

// A matrix [N, K] f32, bf16 or f16 on the CPU in fewer bits, as bitsandbytes makes it: nf4 and fp4 in blocks of 64,
// decoded to the matrix' dtype; int8 by row, from float16. And fp8 (E4M3) by row, scale = largest / 448. A value that is
// not finite, for int8 in float16, throws std::invalid_argument, and the caller knows its name.
PackedWeight quantize(const at::Tensor& weight, Quantization type);
// Scales of blocks (table) in 8 bits, each in blocks of 256, less their mean. The mean is a sum in a fixed order,
// whatever the threads (bitsandbytes' last bit differs between 1 and 2).
void nest_scales(PackedWeight& weight);
void nest_scales(PackedWeight& weight, float offset);  // less `offset`

}  // namespace ops
}  // namespace rankfold
