// A backend: the functions by which the ops compute on a device other than the CPU. The tensor's device chooses it.
// librankfold_cuda.so registers the one for CUDA; tests register the same kernels on fibers, for a fake device.
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
  // ATen's current stream on x's device: kernels and ATen's operators then run in order.
  kernels::Stream (*stream)(const at::Tensor& x);
  // Bytes of shared memory that one block may take on x's device.
  int64_t (*shared_limit)(const at::Tensor& x);
  // Causal attention within each sequence. q [T, query heads, D], k and v [T, key/value heads, D] are prepared, and
  // strided views of one buffer. Returns the result [T, query heads, D], then what else backward needs.
  std::vector<at::Tensor> (*attention)(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                       const AttentionSpec& spec, const Sequences& sequences);
  // Returns dq, dk, dv, each [T, heads, D]; the elements of a head are contiguous.
  std::tuple<at::Tensor, at::Tensor, at::Tensor> (*attention_backward)(const at::Tensor& dy, const at::Tensor& q,
                                                                       const at::Tensor& k, const at::Tensor& v,
                                                                       const std::vector<at::Tensor>& kept,
                                                                       const AttentionSpec& spec,
                                                                       const Sequences& sequences);
  // The kernels that the last call of attention used, for a run's report.
  std::string (*attention_name)();
  // The most bytes of device memory that tensors have used at a time.
  int64_t (*peak_memory)(c10::DeviceIndex device);
};

// The backend for tensors of x's device type; null: the CPU path. Throws for a device type without a backend.
const Backend* backend_for(const at::Tensor& x);
const Backend* backend_of(c10::DeviceType type);
// Registers the backend for a device type; null removes it. The backend must outlive every use.
void use_backend(c10::DeviceType type, const Backend* backend);

// Returns work(). A kernels::Failure from it gets the op's name in front.
template <class Work>
auto with_op_name(const char* op, Work&& work) {
  try {
    return work();
  } catch (const kernels::Failure& failure) {
    throw kernels::Failure(std::string(op) + ": " + failure.what());
  }
}

}  // namespace rankfold::ops
