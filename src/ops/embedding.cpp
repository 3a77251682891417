#include "ops/augmented.h"
#include "ops/ops.h"
#include "ops/rows.h"

#include <ATen/ATen.h>

namespace rankfold::ops {

at::Tensor embed(const at::Tensor& table, const at::Tensor& tokens) {
  const Backend* backend = backend_for(table);
  if (!backend) return at::embedding(table, tokens);
  const at::Tensor y = at::empty({tokens.size(0), table.size(1)}, table.options());
  backend->kernels.embedding({.dtype = dtype_of(table.scalar_type()),
                              .m = tokens.size(0),
                              .k = table.size(1),
                              .table = table.const_data_ptr(),
                              .ld_table = pitch_of(table),
                              .token_M = tokens.const_data_ptr<int64_t>(),
                              .y = y.data_ptr(),
                              .ld_y = pitch_of(y)},
                             backend->stream(table));
  return y;
}

}  // namespace rankfold::ops
