// embedding: y[m] = table[token_M[m]].   table [V, K] pitch ld_table, y [M, K] pitch ld_y; tokens int64 in [0, V).
#pragma once

#include "kernels/types.h"

namespace rankfold::kernels {

struct Embedding {
  Dtype dtype = Dtype::f32;
  int64_t m = 0, k = 0;
  const void* table = nullptr;
  int64_t ld_table = 0;
  const int64_t* token_M = nullptr;
  void* y = nullptr;
  int64_t ld_y = 0;
};
void embedding(const Embedding& p, Stream stream);

}  // namespace rankfold::kernels
