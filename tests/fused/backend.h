// The kernels' branch of every op without a GPU: the very kernels on fibers, a product that takes cuBLASLt's
// descriptor, and attention in plain ATen, behind the table that librankfold_cuda.so fills; for tensors in CPU memory.
#pragma once

#include "ops/backend.h"

namespace rankfold::testing {

const ops::Backend& host_backend();

// CPU tensors are the kernels', or not, as long as it lives; afterwards they are the kernels', as everywhere in
// fused_tests.
class Kernels {
 public:
  explicit Kernels(bool on) { use(on); }
  ~Kernels() { use(true); }
  Kernels(const Kernels&) = delete;
  Kernels& operator=(const Kernels&) = delete;
  static void use(bool on) { ops::use_backend(c10::DeviceType::CPU, on ? &host_backend() : nullptr); }
};

}  // namespace rankfold::testing
