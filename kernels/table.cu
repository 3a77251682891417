// Fills the table with every kernel of this folder; the caller sets gemm.
#include "kernels/table.h"

namespace rankfold::kernels {

Table table_of_kernels() {
  return {.down = down,
          .output_grad = output_grad,
          .input_grad = input_grad,
          .rope = rope,
          .cross_entropy = cross_entropy,
          .cache_append = cache_append,
          .decode_attention = decode_attention,
          .embedding = embedding,
          .dequantize = dequantize,
          .adamw = adamw,
          .square_sum = square_sum,
          .gemm = nullptr,
          .decode_workspace = decode_workspace,
          .output_grad_workspace = output_grad_workspace,
          .input_grad_workspace = input_grad_workspace,
          .lay_out = lay_out};
}

}  // namespace rankfold::kernels
