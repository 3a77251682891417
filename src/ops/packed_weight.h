// Quantised matrices as tensors: storage, decoding and quantisation.
#pragma once

#include "kernels/packed.h"
#include "rankfold/choices.h"

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace rankfold {

// The tensors behind a kernels::Packed, which defines their meaning. All are on one device; they may be views of a
// mapped file.
struct PackedWeight {
  kernels::Packing packing = kernels::Packing::plain;
  int64_t rows = 0, columns = 0;
  at::ScalarType rounded = at::kFloat;    // values are rounded to it first; kFloat: not rounded
  at::Tensor codes;                       // contiguous
  at::Tensor scale;                       // fp32
  int64_t block = 64;                     // table: elements that share a scale
  at::Tensor table;                       // table: fp32 [16]
  at::Tensor nested_codes, nested_table;  // nested scales: uint8 [blocks], fp32 [256]; `scale` then scales these
  int64_t nested_block = 256;
  float offset = 0;
  int64_t scale_rows = 1, scale_columns = 0;  // int8, fp8, grouped: rows and columns that share a scale
  int32_t bits = 4;                           // grouped
  at::Tensor zero, group_of;                  // grouped: uint8 [rows, groups], int32 [columns] or undefined

  kernels::Packed view() const;  // valid as long as the tensors
  int64_t bytes() const;         // of all tensors
  PackedWeight to(at::Device device) const;
};

namespace ops {

// Wraps a weight that is not quantised: f32, bf16 or f16 [N, K], contiguous. Does not copy.
PackedWeight plain_weight(const at::Tensor& stored);

// Decodes rows [begin, end) and columns [first, last) of a weight on the CPU into `to` [end - begin, last - first],
// which is f32, bf16 or f64 and has dense rows. Uses all cores.
void decode(const PackedWeight& weight, int64_t begin, int64_t end, int64_t first, int64_t last, const at::Tensor& to);

// Quantises a matrix [N, K] f32, bf16 or f16 on the CPU, with bitsandbytes' results: nf4 and fp4 in blocks of 64, int8
// by row, from float16. nf4 and fp4 decode to the matrix's dtype. fp8 (E4M3) is by row, with scale = largest / 448.
// Throws std::invalid_argument for a value that is not finite (for int8: not finite in float16). It does not know the
// matrix's name; the caller adds it.
PackedWeight quantize(const at::Tensor& weight, Quantization type);
// Quantises the scales (of packing table) to 8 bits, in blocks of 256, after subtracting their mean. The mean is summed
// in a fixed order, whatever the number of threads; in bitsandbytes its last bit differs between 1 and 2 threads.
void nest_scales(PackedWeight& weight);
void nest_scales(PackedWeight& weight, float offset);  // subtracts `offset` in place of the mean

}  // namespace ops
}  // namespace rankfold
