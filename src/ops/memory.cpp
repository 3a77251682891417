#include "rankfold/memory.h"

#include "ops/backend.h"

#include <sys/resource.h>

namespace rankfold {

int64_t peak_memory_bytes(at::Device device) {
  if (!device.is_cpu())
    if (const ops::Backend* backend = ops::backend_of(device.type())) return backend->peak_memory(device.index());
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

}  // namespace rankfold
