// Matrices whose rows may be apart: how the kernels are told of tensors.
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

// Whether the elements of a row lie side by side and no two rows share any (an expanded row has stride 0).
inline bool has_dense_rows(const at::Tensor& x) {
  return (x.stride(1) == 1 || x.size(1) <= 1) && (x.stride(0) >= x.size(1) || x.size(0) <= 1);
}
// x itself, or a dense copy.
inline at::Tensor dense_rows(const at::Tensor& x) { return has_dense_rows(x) ? x : x.contiguous(); }
// A tensor of one row may have any stride.
inline int64_t pitch_of(const at::Tensor& x) { return std::max(x.stride(0), x.size(1)); }
inline MatrixRows rows_of(const at::Tensor& x) { return {x.const_data_ptr(), pitch_of(x)}; }
inline void* element(const at::Tensor& x, int64_t row, int64_t column) {
  return static_cast<char*>(x.data_ptr()) + (row * pitch_of(x) + column) * x.element_size();
}

// A matrix with free columns after it, in which the backward of the projection that reads it puts dS.
constexpr int64_t kSpareColumns = 64;
at::Tensor with_spare_columns(int64_t rows, int64_t columns, const at::TensorOptions& options);
// Whether so many columns after x are there, aligned as kernels need it, and nobody else's: no other tensor shares the
// memory.
bool has_spare_columns(const at::Tensor& x, int64_t columns);

}  // namespace rankfold::ops
