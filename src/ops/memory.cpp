#include "rankfold/memory.h"

#include "core/peak_memory.h"
#include "ops/backend.h"

#include <c10/core/CachingDeviceAllocator.h>

namespace rankfold {

int64_t peak_memory_bytes(at::Device device) {
  if (!device.is_cpu())
    if (const ops::Backend* backend = ops::backend_of(device.type())) return backend->peak_memory(device.index());
  return peak_resident_bytes();
}

bool reset_peak_memory(at::Device device) {
  if (!device.is_cpu() && ops::backend_of(device.type())) {
    at::getDeviceAllocator(device.type())->resetPeakStats(device.index());
    return true;
  }
  release_free_memory();
  return reset_peak_resident_bytes();
}

}  // namespace rankfold
