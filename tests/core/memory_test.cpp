#include "core/memory.h"

#include "core/file.h"
#include "support/temp_folder.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

namespace rankfold {
namespace {

// Of the pages of a mapping, how many are in memory.
size_t count_resident(const Mapping& map) {
  std::vector<unsigned char> pages(map.size() / static_cast<size_t>(::sysconf(_SC_PAGESIZE)));
  EXPECT_EQ(::mincore(const_cast<std::byte*>(map.data()), map.size(), pages.data()), 0);
  return static_cast<size_t>(std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return page & 1; }));
}

TEST(ReadAhead, BringsAFileIntoMemoryWithoutATouch) {
  constexpr size_t kBytes = 24 << 20;  // more than Linux reads ahead by itself, or at one call
  const testing::TempFolder folder;
  folder.write("a", std::string(kBytes, 'x'));
  const int file = ::open((folder / "a").c_str(), O_RDONLY);
  ASSERT_GE(file, 0);
  ::fsync(file);
  ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  ::close(file);
  const auto map = Mapping::open(folder / "a");
  const size_t all = kBytes / static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  if (count_resident(*map) == all) GTEST_SKIP() << "a file system in memory";
  read_ahead(map->data() + 1, kBytes - 1);
  constexpr int kTries = 1000;
  for (int i = 0; i < kTries && count_resident(*map) < all; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(count_resident(*map), all);
}

}  // namespace
}  // namespace rankfold
