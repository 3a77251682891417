// Helpers that call the raw loops (ops/cpu/loops.h) on tensors: dispatch by dtype, and rows split over threads.
#pragma once

#include "core/check.h"
#include "ops/cpu/loops.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <bit>
#include <cstring>

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

// Calls f(begin, end) for ranges of rows in parallel, one range a thread. Small work stays on one thread.
template <class F>
void for_rows(int64_t rows, int64_t row_elements, F&& f) {
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(row_elements, 1));
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) { f(begin, end); });
}

// Calls f(begin, end) for blocks of kRowBlock rows in parallel; one thread computes a block.
constexpr int64_t kRowBlock = 64;
template <class F>
void for_row_blocks(int64_t rows, int64_t row_elements, F&& f) {
  for_rows((rows + kRowBlock - 1) / kRowBlock, kRowBlock * row_elements, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) f(block * kRowBlock, std::min((block + 1) * kRowBlock, rows));
  });
}

// Scratch memory: a block for each thread of a parallel region.
class ThreadScratch {
 public:
  explicit ThreadScratch(int64_t bytes)
      : bytes_(bytes), blocks_(at::empty({at::get_num_threads(), bytes}, at::kByte)) {}
  void* mine() const {
    RANKFOLD_ASSERT(at::get_thread_num() < blocks_.size(0));
    return static_cast<char*>(blocks_.data_ptr()) + at::get_thread_num() * bytes_;
  }

 private:
  int64_t bytes_;
  at::Tensor blocks_;
};

inline at::ScalarType sum_dtype(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

// The number of rows that a product is padded to, so that there are few sizes (gemm.h): multiples of 64, below 64
// powers of two.
inline int64_t product_rows(int64_t rows) {
  if (rows >= 64) return (rows + 63) / 64 * 64;
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows)));
}
// An uninitialised matrix. On the CPU its storage has spare rows of zeros up to product_rows(rows). detach() makes it
// no view for autograd.
inline at::Tensor empty_rows(int64_t rows, int64_t columns, const at::TensorOptions& options) {
  if (!options.device().is_cpu()) return at::empty({rows, columns}, options);
  const at::Tensor x = at::empty({rows == 0 ? 0 : product_rows(rows), columns}, options);
  const int64_t used = rows * columns * static_cast<int64_t>(x.element_size());
  if (rows < x.size(0)) std::memset(static_cast<char*>(x.data_ptr()) + used, 0, x.nbytes() - static_cast<size_t>(used));
  return x.narrow(0, 0, rows).detach();
}

}  // namespace rankfold::ops
