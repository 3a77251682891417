#include "core/process.h"

#include "core/peak_memory.h"

#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>

namespace rankfold {
namespace {

constexpr size_t kAlignment = 64;

// Large blocks out of one range of addresses, the lowest place that is free first; pages that were touched stay. Blocks
// of a training step live and die together: apart from everything else they leave no holes behind, whereas on the heap
// what lasts (compiled products, say) comes to lie between them, and steps of uneven size need ever more.
class Arena {
 public:
  Arena() {
    // Addresses that may not be used yet cost nothing; where a limit counts them all the same, half of it is for others.
    for (limit_ = size_t{1} << 42; limit_ >= size_t{1} << 30; limit_ /= 2) {
      void* range = ::mmap(nullptr, limit_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (range == MAP_FAILED) continue;
      rlimit addresses{};
      if (::getrlimit(RLIMIT_AS, &addresses) == 0 && addresses.rlim_cur != RLIM_INFINITY &&
          limit_ > addresses.rlim_cur / 2) {
        ::munmap(range, limit_);
        continue;
      }
      base_ = static_cast<char*>(range);
      ::madvise(range, limit_, MADV_HUGEPAGE);  // products read far apart: fewer addresses to look up
      return;
    }
    limit_ = 0;
  }

  void* allocate(size_t bytes) {
    bytes = (bytes + kAlignment - 1) & ~(kAlignment - 1);
    const std::lock_guard lock(mutex_);
    auto place = free_.begin();
    while (place != free_.end() && place->second < bytes) ++place;
    if (place == free_.end() && !free_.empty()) {
      const auto last = std::prev(place);
      if (last->first + last->second == top_) place = last;  // it can grow
    }
    const size_t offset = place == free_.end() ? top_ : place->first;
    if (bytes > limit_ - offset || !open_up_to(offset + bytes)) return nullptr;
    Hole& block = used_[offset];  // where the next line throws, it stays behind empty until a block lies there again
    if (place == free_.end())
      place = free_.emplace_hint(place, offset, bytes);
    else if (place->second > bytes)
      free_.emplace_hint(std::next(place), offset + bytes, place->second - bytes);
    place->second = bytes;
    top_ = std::max(top_, offset + bytes);
    block = free_.extract(place);
    return base_ + offset;
  }

  // The pages of the holes leave memory; they are zero when they are touched again.
  void give_back() {
    const std::lock_guard lock(mutex_);
    const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    for (const auto& [offset, bytes] : free_) {
      const size_t begin = (offset + page - 1) / page * page, end = (offset + bytes) / page * page;
      if (begin < end) ::madvise(base_ + begin, end - begin, MADV_DONTNEED);
    }
  }

  // False where the block is not one of ours.
  bool release(void* block) {
    const auto offset = static_cast<size_t>(static_cast<char*>(block) - base_);
    if (std::less<>()(static_cast<char*>(block), base_) || offset >= limit_) return false;
    const std::lock_guard lock(mutex_);
    const auto used = used_.find(offset);
    const auto place = free_.insert(std::move(used->second)).position;
    used_.erase(used);
    const auto next = std::next(place);
    if (next != free_.end() && place->first + place->second == next->first) {
      place->second += next->second;
      free_.erase(next);
    }
    if (place != free_.begin()) {
      const auto before = std::prev(place);
      if (before->first + before->second == place->first) {
        before->second += place->second;
        free_.erase(place);
      }
    }
    return true;
  }

 private:
  bool open_up_to(size_t end) {
    constexpr size_t kStep = size_t{64} << 20;
    if (end <= open_) return true;
    const size_t wanted = std::min(limit_, (end + kStep - 1) / kStep * kStep);
    if (::mprotect(base_ + open_, wanted - open_, PROT_READ | PROT_WRITE) != 0) return false;
    open_ = wanted;
    return true;
  }

  std::mutex mutex_;
  char* base_ = nullptr;
  size_t open_ = 0;             // bytes that may be used
  size_t limit_ = 0, top_ = 0;  // bytes; everything from top_ on was never used
  // Offset -> bytes of the holes below top_, and the same of the blocks. A block keeps the node that it had as a hole:
  // a release, which destructors make, takes no memory.
  std::map<size_t, size_t> free_;
  using Hole = std::map<size_t, size_t>::node_type;
  std::unordered_map<size_t, Hole> used_;
};

class Allocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, c10::Device(c10::kCPU)};
    void* data = arena && bytes >= kLarge ? arena->allocate(bytes) : nullptr;
    if (!data) data = ::aligned_alloc(kAlignment, (bytes + kAlignment - 1) & ~(kAlignment - 1));
    TORCH_CHECK_WITH(OutOfMemoryError, data, "tried to allocate ", bytes, " bytes");
    return {data, data, &release, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }  // oneDNN's scratch memory needs it
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }

  static inline Arena* arena = nullptr;  // never destroyed: tensors may outlive static objects

 private:
  static constexpr size_t kLarge = 32 << 10;
  static void release(void* data) {
    if (data && !(arena && arena->release(data))) std::free(data);
  }
};

}  // namespace

void set_up_memory(bool keep_pages) {
  static Allocator allocator;
  if (keep_pages && !Allocator::arena) Allocator::arena = new Arena;
  c10::SetCPUAllocator(&allocator);
}

void release_free_memory() {
  if (Allocator::arena) Allocator::arena->give_back();
#ifdef __GLIBC__
  ::malloc_trim(0);
#endif
}

void set_up_libraries(char** argv) {
  constexpr const char* kDone = "RANKFOLD_SET_UP";  // never twice
  if (std::getenv(kDone)) return;
  ::setenv(kDone, "1", 1);
  if (!std::getenv("GOMP_SPINCOUNT")) ::setenv("OMP_WAIT_POLICY", "passive", 0);
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  ::execv(program.c_str(), argv);  // comes back only where it failed; then the libraries have their own settings
}

}  // namespace rankfold
