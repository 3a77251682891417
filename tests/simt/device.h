// What a kernel sees of CUDA when g++ compiles it for the CPU: the keywords, the indices, barriers, shuffles, shared
// memory and asynchronous copies. kernels/device.h includes this in place of the CUDA headers; engine.h runs the kernel
// with one fiber for each CUDA thread.
//
// Stricter than a GPU on purpose. Whatever CUDA leaves undefined or lets pass by luck is a simt::Failure here: barriers
// and warp collectives that not all of their threads reach, at the same line; arrays of shared memory that are
// overrun, too large or not the same in all threads; copies that are misaligned or never waited for. Shared memory
// starts as NaN in each block, and so does the destination of a copy until it has been waited for. With the TSan
// flavour, accesses of two threads to the same bytes are a race unless __syncthreads or __syncwarp orders them.
//
// Blocks run one after another on the calling thread, so a kernel that spins until another thread acts never ends.
#pragma once

#include <math.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
// As nothing, it would turn a block's array into a local variable of each thread.
#define __shared__ static_assert(false, "shared memory comes from simt::Shared");

namespace simt {

struct Dim {
  unsigned x = 1, y = 1, z = 1;
};

// Where in the kernel a thread stands. As a default argument it is the line of the call: a wrapper that takes one and
// hands it on makes its callers distinct.
struct Place {
  const char* file = "";
  int line = 0;
  static constexpr Place here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

// Ends the launch with a Failure: for checks that kernels and twins of PTX instructions make on the host.
[[noreturn]] void fail(const char* what, Place place = Place::here());

namespace detail {

using Register = uint32_t[4];  // what a shuffle moves

void sync_threads(Place place);
void sync_warp(unsigned mask, Place place);
void shuffle(Register& value, unsigned mask, unsigned source, const char* what, Place place);
const void* exchange(const uint32_t* mine, size_t words, Place place);
void begin_carving(Place place);
void* take(size_t count, size_t size, const char* type, Place place);
void wait(unsigned groups_left);

template <class T>
T shuffle(unsigned mask, T value, unsigned source, const char* what, Place place) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(Register));
  Register words = {};
  __builtin_memcpy(words, &value, sizeof(T));
  shuffle(words, mask, source, what, place);
  __builtin_memcpy(&value, words, sizeof(T));
  return value;
}

template <class T>
constexpr const char* type_name() {
  return __PRETTY_FUNCTION__;
}

}  // namespace detail
}  // namespace simt

// Set whenever a fiber goes on.
inline constinit thread_local simt::Dim threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads(simt::Place place = simt::Place::here()) { simt::detail::sync_threads(place); }

inline void __syncwarp(unsigned mask = 0xffffffff, simt::Place place = simt::Place::here()) {
  simt::detail::sync_warp(mask, place);
}

namespace simt {

inline unsigned lane() { return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32; }

// All 32 lanes of a warp hand in a value and get the array of all lanes' values, valid until the lane's next exchange.
// Like a shuffle it orders no other memory access.
template <class T>
const T* exchange(const T& mine, Place place = Place::here()) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 64 && alignof(T) <= 16 && sizeof(T) % 4 == 0);
  uint32_t words[sizeof(T) / 4];
  __builtin_memcpy(words, &mine, sizeof(T));
  return static_cast<const T*>(detail::exchange(words, sizeof(T) / 4, place));
}

// cp.async: `bytes` is 4, 8 or 16 and both addresses are multiples of it. A copy belongs to the group that the thread's
// next commit() closes; wait<N>() returns when at most the last N groups of the calling thread are on their way.
void copy_async(void* shared_destination, const void* global_source, size_t bytes, Place place = Place::here());
void commit();
template <int N>
void wait() {
  static_assert(N >= 0);
  detail::wait(N);
}

// The dynamic shared memory of a block: each thread makes one Shared and takes the same arrays in the same order. The
// arrays lie in the order taken, each from the next multiple of 16 bytes, when their total is held against what the
// launch gives; where they really lie, there is unused memory around each, so that an index beyond an array is seen.
class Shared {
 public:
  explicit Shared(Place place = Place::here()) { detail::begin_carving(place); }

  template <class T>
  T* take(size_t count, Place place = Place::here()) {
    static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= 16);
    return static_cast<T*>(detail::take(count, sizeof(T), detail::type_name<T>(), place));
  }
};

}  // namespace simt

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, simt::Place place = simt::Place::here()) {
  return simt::detail::shuffle(mask, value, static_cast<unsigned>(lane) % 32, "__shfl_sync", place);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, simt::Place place = simt::Place::here()) {
  return simt::detail::shuffle(mask, value, (simt::lane() ^ static_cast<unsigned>(lanes)) % 32, "__shfl_xor_sync",
                               place);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes, simt::Place place = simt::Place::here()) {
  const unsigned lane = simt::lane();
  return simt::detail::shuffle(mask, value, lane + lanes < 32 ? lane + lanes : lane, "__shfl_down_sync", place);
}

template <class T>
T __ldg(const T* address) {
  return *address;
}

// Operations that no compiler may join to one.
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
