// The table of functions through which the ops call the kernels. librankfold_cuda.so fills it with the CUDA kernels and
// cuBLASLt; tests/fused with the same kernels on fibers and a host product. Kernels are queued on the given stream.
// Every function may throw Failure.
#pragma once

#include "kernels/adamw.h"
#include "kernels/cross_entropy.h"
#include "kernels/decode_attention.h"
#include "kernels/dequantize.h"
#include "kernels/down.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/input_grad.h"
#include "kernels/output_grad.h"
#include "kernels/rope.h"

namespace rankfold::kernels {

struct Table {
  void (*down)(const Down&, Stream);
  void (*output_grad)(const OutputGrad&, Stream);
  void (*input_grad)(const InputGrad&, Stream);
  void (*rope)(const Rope&, Stream);
  void (*cross_entropy)(const CrossEntropy&, Stream);
  void (*cache_append)(const DecodeAttention&, Stream);
  void (*decode_attention)(const DecodeAttention&, Stream);
  void (*embedding)(const Embedding&, Stream);
  void (*dequantize)(const Dequantize&, Stream);
  void (*adamw)(const AdamW&, Stream);
  void (*square_sum)(const SquareSum&, Stream);
  void (*gemm)(const Gemm&, Stream);
  // Host functions that launch nothing: bytes of workspace; thread blocks of all segments.
  int64_t (*decode_workspace)(const DecodeAttention&);
  int64_t (*output_grad_workspace)(const OutputGrad&);
  int64_t (*input_grad_workspace)(const InputGrad&);
  int64_t (*lay_out)(Segment*, int64_t);
};

// All entries but gemm, which the caller must set.
Table table_of_kernels();

}  // namespace rankfold::kernels
