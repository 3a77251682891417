// launch(): the only way to start a kernel. It checks grid and shared memory; errors name the kernel.
#pragma once

#include "kernels/device.h"

#include <limits>
#include <string>

#if !defined(__CUDACC__)
#include "simt/engine.h"
#endif

namespace rankfold::kernels {

struct Grid {
  int64_t x = 1, y = 1;
};

#if defined(__CUDACC__)
inline void check_cuda(cudaError_t status, const char* name) {
  if (status != cudaSuccess) throw Failure(std::string("kernel ") + name + ": " + cudaGetErrorString(status));
}
#endif

// Throws Failure for a grid that exceeds CUDA's limits, or shared memory that exceeds an int32.
inline void check_launch(const char* name, Grid grid, int64_t shared_bytes) {
  constexpr int64_t kMostX = std::numeric_limits<int32_t>::max(), kMostY = 65535;
  if (grid.x < 0 || grid.x > kMostX || grid.y < 0 || grid.y > kMostY)
    throw Failure(std::string("kernel ") + name + ": a grid of " + std::to_string(grid.x) + " x " +
                  std::to_string(grid.y) + " blocks, where a device takes " + std::to_string(kMostX) + " x " +
                  std::to_string(kMostY));
  if (shared_bytes < 0 || shared_bytes > std::numeric_limits<int32_t>::max())
    throw Failure(std::string("kernel ") + name + ": " + std::to_string(shared_bytes) + " bytes of shared memory");
}

// Runs kernel(params) on grid.x * grid.y blocks of `threads`. With an empty grid it does nothing. Throws Failure.
template <class Params>
void launch(const char* name, void (*kernel)(Params), Grid grid, int threads, int64_t shared_bytes, Stream stream,
            const Params& params) {
  if (grid.x == 0 || grid.y == 0) return;
  check_launch(name, grid, shared_bytes);
#if defined(__CUDACC__)
  if (shared_bytes > 48 * 1024)
    check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared_bytes)),
               name);
  const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y));
  kernel<<<blocks, static_cast<unsigned>(threads), static_cast<size_t>(shared_bytes), stream>>>(params);
  check_cuda(cudaGetLastError(), name);
#else
  (void)stream;
  simt::launch({.name = name,
                .grid = {static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), 1},
                .block = {static_cast<unsigned>(threads), 1, 1},
                .shared_bytes = static_cast<size_t>(shared_bytes)},
               kernel, params);
#endif
}

// Bytes that Shared::take<T>(count) uses.
template <class T>
constexpr int64_t shared_bytes(int64_t count) {
  return round_up(count * static_cast<int64_t>(sizeof(T)), 16);
}

}  // namespace rankfold::kernels
