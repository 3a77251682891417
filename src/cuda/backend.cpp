// The one function that librankfold.so asks librankfold_cuda.so for. src/cuda is compiled into that library alone, and
// is the only place that sees CUDA and LibTorch together.
#include "ops/backend.h"

#include "cuda/attention.h"

#include <ATen/Context.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <stdexcept>
#include <string>

namespace rankfold::cuda {
namespace {

constexpr int kLeastCapability = 80;  // mma.m16n8k16 of bf16, cp.async
constexpr size_t kMostDevices = C10_COMPILE_TIME_MAX_GPUS;

// Also makes x's device current in this thread: launches and cuBLASLt go to the current device, and nothing else would
// set it where a run works on another device than the first.
kernels::Stream stream_of(const at::Tensor& x) {
  const c10::DeviceIndex index = x.device().index();
  c10::cuda::set_device(index);
  return c10::cuda::getCurrentCUDAStream(index).stream();
}

int64_t shared_limit(const at::Tensor& x) {
  static std::array<std::atomic<int>, kMostDevices> limits{};
  std::atomic<int>& limit = limits[static_cast<size_t>(x.device().index())];
  int bytes = limit.load(std::memory_order_relaxed);
  if (bytes == 0) {
    const cudaError_t status =
        cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, x.device().index());
    if (status != cudaSuccess)
      throw std::runtime_error(std::string("shared memory of a block: ") + cudaGetErrorString(status));
    limit.store(bytes, std::memory_order_relaxed);
  }
  return bytes;
}

int64_t peak_memory(c10::DeviceIndex device) {
  const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  return c10::cuda::CUDACachingAllocator::getDeviceStats(device).allocated_bytes[all].peak;
}

ops::Backend make_backend() {
  ops::Backend backend{};
  backend.kernels = kernels::table_of_kernels();
  backend.kernels.gemm = &kernels::gemm;
  backend.stream = &stream_of;
  backend.shared_limit = &shared_limit;
  backend.attention = &attention;
  backend.attention_backward = &attention_backward;
  backend.attention_name = &attention_name;
  backend.peak_memory = &peak_memory;
  return backend;
}

// Why the device cannot be used; empty: it can.
std::string refusal(int index) {
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess)
    return std::string("CUDA does not start: ") + cudaGetErrorString(status);
  if (index < 0 || index >= count)
    return "this machine has " + std::to_string(count) + (count == 1 ? " CUDA device" : " CUDA devices") +
           ", numbered from 0";
  int major = 0, minor = 0;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index) != cudaSuccess)
    return "the device does not tell its compute capability";
  if (10 * major + minor < kLeastCapability)
    return "the device has compute capability " + std::to_string(major) + "." + std::to_string(minor) +
           " and the kernels need 8.0";
  // LibTorch looks for its CUDA side once, at the first question; the answer stays.
  if (!at::globalContext().hasCUDA())
    return "LibTorch has decided before that there is no CUDA: a process must open the device before it computes";
  return {};
}

}  // namespace
}  // namespace rankfold::cuda

// The backend where device `device_index` can be used; otherwise null, and why as part of a sentence. Never throws.
extern "C" __attribute__((visibility("default"))) const rankfold::ops::Backend* rankfold_cuda_backend(int device_index,
                                                                                                      char* why,
                                                                                                      size_t why_size) {
  std::string reason;
  try {
    reason = rankfold::cuda::refusal(device_index);
    if (reason.empty()) {
      static const rankfold::ops::Backend backend = rankfold::cuda::make_backend();
      return &backend;
    }
  } catch (const std::exception& error) {
    reason = error.what();
  }
  std::snprintf(why, why_size, "%s", reason.substr(0, reason.find('\n')).c_str());
  return nullptr;
}
