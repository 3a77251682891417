// Peak memory of this process.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>

namespace rankfold {

// Peak memory in bytes since the start or since reset_peak_memory(). CPU: resident memory of this process. CUDA: memory
// allocated for tensors on that device.
int64_t peak_memory_bytes(at::Device device = at::kCPU);

// Restarts the peak of this device at the current use. On the CPU it first returns free memory of the process to the
// system, so that an earlier job does not count. Returns false where the system cannot reset the peak.
bool reset_peak_memory(at::Device device = at::kCPU);

}  // namespace rankfold
