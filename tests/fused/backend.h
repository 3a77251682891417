// The kernels' branch of every op without a GPU: the very kernels on fibers, a product that takes cuBLASLt's
// descriptor, and attention in plain ATen, behind the table that librankfold_cuda.so fills; for tensors of the device
// that fake_cuda.h makes.
#pragma once

#include "ops/backend.h"

namespace rankfold::testing {

const ops::Backend& host_backend();

// Where a run goes: through the kernels, which a CUDA device has, or along the CPU path. Without --device=cuda the device
// is the fake one.
class Kernels {
 public:
  static inline bool on_cuda = false;  // a real device

  explicit Kernels(bool on) : on_(on) {}
  const char* device() const { return on_ ? "cuda" : "cpu"; }

 private:
  bool on_;
};

}  // namespace rankfold::testing
