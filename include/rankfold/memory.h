// What a run takes.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>

namespace rankfold {

// Most memory used so far, or since reset_peak_memory(): of this process, or what its tensors have held on a CUDA device.
int64_t peak_memory_bytes(at::Device device = at::kCPU);

// peak_memory_bytes() of this device counts anew, from what is held now. Memory that is free but still the process's is
// given back before, so that one job's peak is not the next one's. False where the system cannot count anew.
bool reset_peak_memory(at::Device device = at::kCPU);

}  // namespace rankfold
