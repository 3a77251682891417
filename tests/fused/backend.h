// The kernels' branch of every op without a GPU: the very kernels on fibers, a product that takes cuBLASLt's
// descriptor, and attention in plain ATen, behind the table that librankfold_cuda.so fills; for tensors in CPU memory.
#pragma once

#include "ops/backend.h"

namespace rankfold::testing {

const ops::Backend& host_backend();

// Whether runs go through the kernels, as long as it lives; afterwards they do, as everywhere in fused_tests. With a
// CUDA device the kernels are that device's, otherwise the host backend's, for CPU tensors.
class Kernels {
 public:
  static inline bool on_cuda = false;

  explicit Kernels(bool on) : on_(on) { use(on); }
  ~Kernels() { use(true); }
  Kernels(const Kernels&) = delete;
  Kernels& operator=(const Kernels&) = delete;
  static void use(bool on) {
    if (!on_cuda) ops::use_backend(c10::DeviceType::CPU, on ? &host_backend() : nullptr);
  }
  const char* device() const { return on_ && on_cuda ? "cuda" : "cpu"; }

 private:
  bool on_;
};

}  // namespace rankfold::testing
