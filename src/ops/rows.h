// Tensors as pointer and pitch for the kernels: rows are dense, but there may be gaps between them.
#pragma once

#include "kernels/types.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>

namespace rankfold::ops {

struct MatrixRows {
  const void* data = nullptr;
  int64_t pitch = 0;  // elements from a row to the next
};

// Whether each row is contiguous and rows do not overlap (an expanded row has stride 0).
inline bool has_dense_rows(const at::Tensor& x) {
  return (x.stride(1) == 1 || x.size(1) <= 1) && (x.stride(0) >= x.size(1) || x.size(0) <= 1);
}
// x itself if it has dense rows, otherwise a contiguous copy.
inline at::Tensor dense_rows(const at::Tensor& x) { return has_dense_rows(x) ? x : x.contiguous(); }
// A tensor of one row may have any stride.
inline int64_t pitch_of(const at::Tensor& x) { return std::max(x.stride(0), x.size(1)); }
inline MatrixRows rows_of(const at::Tensor& x) { return {x.const_data_ptr(), pitch_of(x)}; }
inline void* element(const at::Tensor& x, int64_t row, int64_t column) {
  return static_cast<char*>(x.data_ptr()) + (row * pitch_of(x) + column) * x.element_size();
}

// An uninitialised matrix with kSpareColumns free columns after it. The backward pass of the projection that reads the
// matrix writes dS there.
constexpr int64_t kSpareColumns = 64;
at::Tensor with_spare_columns(int64_t rows, int64_t columns, const at::TensorOptions& options);
// Whether there are so many free columns after x, aligned for the kernels, and no other tensor shares the memory.
bool has_spare_columns(const at::Tensor& x, int64_t columns);

}  // namespace rankfold::ops
