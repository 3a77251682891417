// What a run takes.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>

namespace rankfold {

// Most memory used so far: of this process, or what its tensors have held on a CUDA device.
int64_t peak_memory_bytes(at::Device device = at::kCPU);

}  // namespace rankfold
