#include "gpu/cuda_machine.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <stdexcept>

namespace rankfold::kernels::testing {
namespace {

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

class CudaMachine : public Machine {
 public:
  CudaMachine() {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    int bytes = 0;
    check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0), "shared memory of a block");
    shared_limit_ = bytes;
  }
  ~CudaMachine() override { cudaStreamDestroy(stream_); }

  void* allocate(size_t bytes) override {
    void* data = nullptr;
    check(cudaMalloc(&data, std::max<size_t>(bytes, 1)), "cudaMalloc");
    return data;
  }
  void release(void* data) override { cudaFree(data); }
  void upload(void* to, const void* from, size_t bytes) override {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_), "copy to the device");
    synchronize();
  }
  void download(void* to, const void* from, size_t bytes) override {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "copy from the device");
    synchronize();
  }
  void synchronize() override { check(cudaStreamSynchronize(stream_), "the kernel, or what came before it"); }
  Stream stream() override { return stream_; }
  int64_t shared_limit() override { return shared_limit_; }

 private:
  cudaStream_t stream_ = nullptr;
  int64_t shared_limit_ = 0;
};

}  // namespace

std::string why_no_device() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  return count == 0 ? "no CUDA device" : "";
}

std::unique_ptr<Machine> cuda_machine() { return std::make_unique<CudaMachine>(); }

}  // namespace rankfold::kernels::testing
