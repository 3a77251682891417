#include "core/process.h"

#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <limits>
#include <new>
#include <vector>

namespace {

constexpr int64_t kEndless = std::numeric_limits<int64_t>::max();
std::atomic<int64_t> calls_left = kEndless;  // how many more calls of operator new succeed

void* taken(size_t bytes) { return calls_left > 0 && calls_left-- > 0 ? std::malloc(bytes) : nullptr; }

}  // namespace

// Not inlined: GCC would see malloc where it expects new.
[[gnu::noinline]] void* operator new(size_t bytes) {
  void* data = taken(bytes);
  if (!data) throw std::bad_alloc();
  return data;
}
[[gnu::noinline]] void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return taken(bytes); }
[[gnu::noinline]] void operator delete(void* data) noexcept { std::free(data); }
[[gnu::noinline]] void operator delete(void* data, size_t) noexcept { std::free(data); }

namespace rankfold {
namespace {

// Blocks of the range whose pages are kept: each lies at the lowest place that is free.
class KeptPages : public ::testing::Test {
 protected:
  KeptPages() { set_up_memory(/*keep_pages=*/true); }
  ~KeptPages() override { c10::SetCPUAllocator(theirs_); }

  static c10::DataPtr allocate(size_t bytes) { return c10::GetCPUAllocator()->allocate(bytes); }

  // Where the block comes to lie after the allocation has failed at each call of operator new that it makes.
  static const void* place_after_failures(size_t bytes) {
    for (int64_t calls = 0;; ++calls) {
      calls_left = calls;
      try {
        const c10::DataPtr block = allocate(bytes);
        calls_left = kEndless;
        return block.get();
      } catch (const std::bad_alloc&) {
        calls_left = kEndless;
      }
    }
  }

  static constexpr size_t kBytes = 64 << 10;

 private:
  c10::Allocator* theirs_ = c10::GetCPUAllocator();
};

// Tensors are released in destructors, where an exception ends the process.
TEST_F(KeptPages, AreReleasedWithoutMemory) {
  std::vector<c10::DataPtr> blocks;
  for (int i = 0; i < 5; ++i) blocks.push_back(allocate(kBytes));
  const void* lowest = blocks[0].get();
  calls_left = 0;
  for (const size_t i : {1, 3, 2, 4, 0}) blocks[i].clear();  // apart from all holes, between two, before and after one
  calls_left = kEndless;
  EXPECT_EQ(allocate(5 * kBytes).get(), lowest) << "not one hole";
}

TEST_F(KeptPages, AreNotLostWhereAnAllocationFails) {
  std::vector<c10::DataPtr> blocks;
  for (int i = 0; i < 4; ++i) blocks.push_back(allocate(kBytes));
  const void* top = allocate(kBytes).get();
  EXPECT_EQ(place_after_failures(kBytes), top);
  EXPECT_EQ(place_after_failures(2 * kBytes), top) << "the hole at the end grows";

  const void* hole = blocks[1].get();
  blocks[1].clear();
  EXPECT_EQ(place_after_failures(kBytes), hole) << "all of a hole";
  EXPECT_EQ(place_after_failures(kBytes / 2), hole) << "part of a hole";
  EXPECT_EQ(allocate(kBytes).get(), hole) << "the parts are one hole again";
}

}  // namespace
}  // namespace rankfold
