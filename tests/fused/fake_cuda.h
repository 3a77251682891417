// A CUDA device without CUDA, for fused_tests: tensors of device type CUDA whose memory the host cannot touch. ATen's
// operators on them run on the CPU, on a second mapping of that memory; the kernels run on fibers (backend.h), and while
// one runs the memory is open, at all other times it is PROT_NONE. What reads or writes a device's memory from the host,
// which a real device alone would show otherwise, ends the process with a line that says so.
#pragma once

#include <cstdint>

namespace rankfold::testing {

// Registers the device with LibTorch. Once in a process, before anything asks for a device; never with real CUDA.
void install_fake_cuda();

// The device's memory may be touched as long as one lives.
class OpenMemory {
 public:
  OpenMemory();
  ~OpenMemory();
  OpenMemory(const OpenMemory&) = delete;
  OpenMemory& operator=(const OpenMemory&) = delete;
};

// Most bytes that tensors have held at a time.
int64_t fake_cuda_peak();

}  // namespace rankfold::testing
