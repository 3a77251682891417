#include "ops/backend.h"

#include "core/check.h"

#include <array>
#include <atomic>

namespace rankfold::ops {
namespace {
std::array<std::atomic<const Backend*>, c10::COMPILE_TIME_MAX_DEVICE_TYPES> backends{};
}

const Backend* backend_of(c10::DeviceType type) { return backends[static_cast<size_t>(type)].load(); }

const Backend* backend_for(const at::Tensor& x) {
  const Backend* backend = backend_of(x.device().type());
  RANKFOLD_CHECK(backend || x.is_cpu(), "a tensor on ", x.device(), ", which is not open (ops::open_device)");
  return backend;
}

void use_backend(c10::DeviceType type, const Backend* backend) { backends[static_cast<size_t>(type)] = backend; }

}  // namespace rankfold::ops
