// A quantised matrix [N, K] as plain pointers and numbers. The CPU decodes it in ops/cpu/packed.h, a device in
// kernels/dequantize.h. Element (n, k) by packing:
//   plain    the element itself, f32, bf16 or f16                                     codes [N, K]
//   table    table[nibble] * scale of its block of `block` elements, counted over the whole matrix row by row; element
//            i = n K + k is the high nibble of byte i / 2 where i is even               codes [(N K + 1) / 2] bytes
//   int8     (code * scale) * kInt8Unit, both products rounded to fp32; scale: the row's largest magnitude (SCB in
//            bitsandbytes)
//                                                                                      codes [N, K] int8
//   fp8      code * scale                                                              codes [N, K] E4M3
//   grouped  (code - zero) * scale of the row's group; bits 4: element k of a row is the low nibble of byte k / 2 where
//            k is even                                                  codes [N, ld_codes] bytes
// A value is rounded to `rounded` first, then to the requested dtype. This gives the values of a quantiser whose model
// was in 16 bits.
#pragma once

#include "kernels/types.h"

namespace rankfold::kernels {

constexpr float kInt8Unit = 0x1.020408p-7f;  // 1 / 127, which bitsandbytes multiplies by

enum class Packing : int32_t { plain, table, int8, fp8, grouped };

struct Packed {
  Packing packing = Packing::plain;
  Dtype stored = Dtype::f32;   // plain: of the codes
  Dtype rounded = Dtype::f32;  // f32: nothing is rounded
  int64_t n = 0, k = 0;
  const void* codes = nullptr;

  // table: scale of block b = scale[b], or, where nested_codes is not null,
  // nested_table[nested_codes[b]] * scale[b / nested_block] + offset: rounded after the product and after the sum.
  const float* table = nullptr;  // [16]
  int64_t block = 64;
  const uint8_t* nested_codes = nullptr;
  const float* nested_table = nullptr;  // [256]
  int64_t nested_block = 256;
  float offset = 0;

  // int8, fp8, grouped: scale of element (n, k) = scale[n / scale_rows * ld_scale + group], where group is
  // k / scale_columns (0 if scale_columns is 0), or group_of[k] where that is not null.
  const float* scale = nullptr;
  int64_t scale_rows = 1, scale_columns = 0, ld_scale = 0;

  // grouped
  int32_t bits = 4;                   // 4 or 8
  int64_t ld_codes = 0;               // bytes of a row
  const uint8_t* zero = nullptr;      // [N, ld_scale]
  const int32_t* group_of = nullptr;  // [K]
};

}  // namespace rankfold::kernels
