#include "ops/open_cuda.h"

#include "core/check.h"
#include "core/device.h"
#include "ops/backend.h"

#include <dlfcn.h>

#include <array>
#include <filesystem>
#include <mutex>
#include <optional>

namespace rankfold::ops {
namespace {

constexpr const char* kLibrary = "librankfold_cuda.so";
using BackendOf = const Backend*(int device_index, char* why, size_t why_size);  // src/cuda/backend.cpp

template <class Function>
Function* symbol(void* library, const char* name) {
  return reinterpret_cast<Function*>(dlsym(library, name));
}

// Why CUDA cannot be used, and whether a GPU seems to be there all the same.
struct Refusal {
  std::string text;
  bool has_gpu = true;
};

// None: the driver has a device. Asked before libtorch_cuda is loaded, as that costs memory and time which a machine
// without a device should not pay.
std::optional<Refusal> driver_refuses() {
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver == nullptr) return Refusal{"there is no NVIDIA driver on this machine (libcuda.so.1)", false};
  const auto init = symbol<int(unsigned)>(driver, "cuInit");
  const auto get_count = symbol<int(int*)>(driver, "cuDeviceGetCount");
  if (init == nullptr || get_count == nullptr)
    return Refusal{"the NVIDIA driver (libcuda.so.1) lacks cuInit or cuDeviceGetCount"};
  constexpr int kNoDevice = 100;  // CUDA_ERROR_NO_DEVICE
  if (const int status = init(0); status != 0)
    return Refusal{join("the NVIDIA driver finds no device (cuInit gives ", status, ")"), status != kNoDevice};
  int count = 0;
  if (get_count(&count) != 0 || count == 0) return Refusal{"the NVIDIA driver finds no device", false};
  return std::nullopt;
}

std::filesystem::path own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&open_device), &info) == 0 || info.dli_fname == nullptr) return {};
  std::error_code ignored;
  return std::filesystem::absolute(info.dli_fname, ignored).parent_path();
}

// Puts the backend to use; none: it is.
std::optional<Refusal> open_cuda(int index) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  static BackendOf* backend_of = nullptr;
  if (backend_of == nullptr) {
    if (ops::backend_of(at::kCUDA) != nullptr) return {};  // the program's own: it has called use_backend
    const std::filesystem::path path = own_folder() / kLibrary;
    std::error_code ignored;
    const std::optional<Refusal> refusal = driver_refuses();
    if (!std::filesystem::exists(path, ignored))
      return Refusal{
          join("this build of Rankfold computes on the CPU only (", path.string(), " is not there: it takes nvcc)"),
          !refusal || refusal->has_gpu};
    if (refusal) return refusal;
    // Local: what libtorch_cuda registers goes through libtorch_cpu's own tables, and nobody else needs its symbols.
    // Never closed, as those tables then point into it.
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (library == nullptr) return Refusal{join("its library does not load: ", dlerror())};
    backend_of = symbol<BackendOf>(library, "rankfold_cuda_backend");
    if (backend_of == nullptr)
      return Refusal{join(path.string(), " is of another version: it has no rankfold_cuda_backend")};
  }
  std::array<char, 512> why{};
  const Backend* backend = backend_of(index, why.data(), why.size());
  if (backend == nullptr) return Refusal{why.data()};
  use_backend(at::kCUDA, backend);
  return std::nullopt;
}

}  // namespace

at::Device open_device(const std::string& name, std::string* why_cpu) {
  const std::optional<at::Device> asked = resolve_device(name);
  const at::Device device = asked.value_or(at::Device(at::kCUDA, 0));
  if (device.is_cpu()) return device;
  const std::optional<Refusal> refusal = open_cuda(device.index());
  if (!refusal) return device;
  if (!asked) {
    if (why_cpu && refusal->has_gpu) *why_cpu = refusal->text;
    return at::kCPU;
  }
  throw Error(ExitCode::kNoDevice, join("device: ", name, " was asked for, but ", refusal->text, "; use cpu or auto"));
}

}  // namespace rankfold::ops
