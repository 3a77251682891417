#include "core/process.h"

#include <c10/core/CPUAllocator.h>
#include <malloc.h>
#include <unistd.h>

#include <climits>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <new>

namespace rankfold {
namespace {

// Aligns what malloc gives by itself. glibc's posix_memalign (torch's choice) leaves the spare end of each
// block in a per-thread cache, where it keeps the freed block beside it from being joined or reused: with
// pages kept, a process then holds twice the memory that it needs.
class AlignedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, c10::Device(c10::kCPU)};
    void* block = bytes < SIZE_MAX - kSpare ? std::malloc(bytes + kSpare) : nullptr;
    if (!block) throw std::bad_alloc();
    const uintptr_t first = reinterpret_cast<uintptr_t>(block) + sizeof(void*);
    void* data = reinterpret_cast<void*>((first + kAlignment - 1) & ~(kAlignment - 1));
    static_cast<void**>(data)[-1] = block;
    return {data, data, &release, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }  // oneDNN's scratch memory needs it
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }

 private:
  static constexpr uintptr_t kAlignment = 64;
  static constexpr size_t kSpare = kAlignment + sizeof(void*);
  static void release(void* data) {
    if (data) std::free(static_cast<void**>(data)[-1]);
  }
};

}  // namespace

void keep_freed_pages() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
  static AlignedAllocator allocator;
  c10::SetCPUAllocator(&allocator);
}

void set_up_libraries(char** argv) {
  constexpr const char* kDone = "RANKFOLD_SET_UP";  // never twice
  if (std::getenv(kDone)) return;
  ::setenv(kDone, "1", 1);
  if (!std::getenv("GOMP_SPINCOUNT")) ::setenv("OMP_WAIT_POLICY", "passive", 0);
  ::setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128", 0);
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  ::execv(program.c_str(), argv);  // comes back only where it failed; then the libraries have their own settings
}

}  // namespace rankfold
