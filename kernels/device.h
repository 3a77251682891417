// Every .cu file includes this first. nvcc defines the CUDA names itself. g++ takes them from tests/simt, which runs
// each thread as a fiber: the same source runs without a GPU (docs/kernels.md, "Kernels without a GPU").
// Rules for kernel code: shared memory only through Shared, launches only through launch(), warp operations with all 32
// lanes, no early return before a barrier, no local array indexed at run time, PTX only in ptx.h.
#pragma once

#include "kernels/types.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include "simt/device.h"
#endif

namespace rankfold::kernels {

// 16-bit floats as plain bits; ptx.h has the conversions.
struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

struct alignas(16) Word4 {
  uint32_t x, y, z, w;
};
struct alignas(8) Word2 {
  uint32_t x, y;
};

constexpr int kWarp = 32;

#if defined(__CUDACC__)
// Allocates arrays in dynamic shared memory, one after the other. Every thread must take the same arrays in the same
// order.
class Shared {
 public:
  __device__ Shared() {
    extern __shared__ __align__(16) char memory[];
    next_ = memory;
  }
  template <class T>
  __device__ T* take(int count) {
    T* array = reinterpret_cast<T*>(next_);
    next_ += (static_cast<size_t>(count) * sizeof(T) + 15) / 16 * 16;
    return array;
  }

 private:
  char* next_;
};
#else
using simt::Shared;
#endif

// Calls f(T()) with the element type of `dtype`.
template <class F>
void with_dtype(Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::f32:
      return f(float());
    case Dtype::bf16:
      return f(Bf16());
    case Dtype::f16:
      return f(F16());
  }
}

}  // namespace rankfold::kernels
