// The other implementation of the ops: kernels behind a table of functions, chosen by where a tensor lies. On CUDA
// devices librankfold_cuda.so brings it; the tests bring the same kernels on fibers, for a device that they make up.
#pragma once

#include "kernels/table.h"
#include "ops/projection.h"

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

namespace rankfold::ops {

struct Backend {
  kernels::Table kernels;
  // The stream that ATen's own work on x's device goes to, so that both are in order.
  kernels::Stream (*stream)(const at::Tensor& x);
  // Bytes of shared memory that one block may take on x's device.
  int64_t (*shared_limit)(const at::Tensor& x);
  // Causal attention within each sequence. q [T, query heads, D], k and v [T, key/value heads, D], prepared, strided views
  // of one buffer. Gives what backward needs, the result [T, query heads, D] first.
  std::vector<at::Tensor> (*attention)(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                       const AttentionSpec& spec, const Sequences& sequences);
  // dq, dk, dv, each [T, heads, D]; the elements of a head lie side by side.
  std::tuple<at::Tensor, at::Tensor, at::Tensor> (*attention_backward)(const at::Tensor& dy, const at::Tensor& q,
                                                                       const at::Tensor& k, const at::Tensor& v,
                                                                       const std::vector<at::Tensor>& kept,
                                                                       const AttentionSpec& spec,
                                                                       const Sequences& sequences);
  // Which kernels attention took last, for a run's report.
  std::string (*attention_name)();
  // Most bytes of the device's memory that tensors have held at a time.
  int64_t (*peak_memory)(c10::DeviceIndex device);
};

// The backend that works on tensors of x's device type; null: the CPU path. Throws where x is on a device that has none.
const Backend* backend_for(const at::Tensor& x);
const Backend* backend_of(c10::DeviceType type);
// From now on tensors of this type are `backend`'s; null: nobody's. The backend must outlive every use.
void use_backend(c10::DeviceType type, const Backend* backend);

// work(); where a kernel in it fails, the error names the op too.
template <class Work>
auto with_op_name(const char* op, Work&& work) {
  try {
    return work();
  } catch (const kernels::Failure& failure) {
    throw kernels::Failure(std::string(op) + ": " + failure.what());
  }
}

}  // namespace rankfold::ops
