// dequantize: out[n - begin, k] = element (n, k) of the weight, n in [begin, end).   out [end - begin, K] pitch ld_out
// The result is equal to the bit to that of the CPU path (src/ops/cpu/packed.h).
#pragma once

#include "kernels/packed.h"

namespace rankfold::kernels {

struct Dequantize {
  Packed weight;
  Dtype dtype = Dtype::f32;    // of out
  int64_t begin = 0, end = 0;  // rows of the weight
  void* out = nullptr;
  int64_t ld_out = 0;
};
void dequantize(const Dequantize& p, Stream stream);

}  // namespace rankfold::kernels
