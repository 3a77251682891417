#include "ops/rows.h"

#include <ATen/ATen.h>

namespace rankfold::ops {

at::Tensor with_spare_columns(int64_t rows, int64_t columns, const at::TensorOptions& options) {
  // detach(): a view would keep the whole matrix, a second owner of the memory, alive.
  return at::empty({rows, kernels::round_up(columns, 8) + kSpareColumns}, options).narrow(1, 0, columns).detach();
}

bool has_spare_columns(const at::Tensor& x, int64_t columns) {
  if (x.size(0) == 0 || x.size(1) % 8 != 0 || x.stride(1) != 1 || x.stride(0) < x.size(1) + columns) return false;
  if (x.stride(0) % 8 != 0 || reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 != 0) return false;
  const int64_t end = x.storage_offset() + (x.size(0) - 1) * x.stride(0) + x.size(1) + columns;
  return x.storage().use_count() == 1 && end * x.element_size() <= static_cast<int64_t>(x.storage().nbytes());
}

}  // namespace rankfold::ops
