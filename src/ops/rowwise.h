// Glue between tensors and the raw loops: element type to table, rows over threads.
#pragma once

#include "core/check.h"
#include "ops/cpu/loops.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

namespace rankfold::ops {

// Calls f(T()) with the loops' element type of `dtype`.
template <class F>
void with_dtype(at::ScalarType dtype, F&& f) {
  switch (dtype) {
    case at::kFloat:
      return f(float());
    case at::kBFloat16:
      return f(cpu::Bf16());
    case at::kDouble:
      return f(double());
    default:
      RANKFOLD_CHECK(false, "expected float32, bfloat16 or float64, got ", c10::toString(dtype));
  }
}
template <class T>
T* data(const at::Tensor& x) {
  return static_cast<T*>(x.data_ptr());
}
template <class T>
const T* const_data(const at::Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}

// f(begin, end) over ranges of rows, one range a thread; small work stays on one.
template <class F>
void for_rows(int64_t rows, int64_t row_elements, F&& f) {
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(row_elements, 1));
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) { f(begin, end); });
}

inline at::ScalarType sum_dtype(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

}  // namespace rankfold::ops
