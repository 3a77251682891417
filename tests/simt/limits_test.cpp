// What the kernels' 32-bit numbers cannot hold is refused before anything is launched.
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "kernels/launch.h"
#include "kernels/table.h"
#include "support/contains.h"

namespace {

using rankfold::kernels::Failure;
using rankfold::kernels::Segment;
using rankfold::testing::contains;

// The text of the Failure that f throws.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Failure& failure) {
    return failure.what();
  }
  return "no failure";
}

int64_t blocks_of(const std::vector<std::pair<int64_t, int64_t>>& shapes) {
  std::vector<Segment> segments;
  for (const auto& [rows, cols] : shapes) {
    Segment segment;
    segment.rows = rows, segment.cols = cols;
    segments.push_back(segment);
  }
  return rankfold::kernels::lay_out(segments.data(), static_cast<int64_t>(segments.size()));
}

TEST(Limits, AParameterThatAdamwCannotCountIsNamed) {
  EXPECT_EQ(blocks_of({{65535, 65537}}), 1 << 20);  // 2^32 - 1 elements
  EXPECT_EQ(blocks_of({{65535, 65537}, {1, 1}}), (1 << 20) + 1);
  EXPECT_TRUE(contains(error_of([] { blocks_of({{2, 3}, {65536, 65536}}); }), "adamw: a parameter [65536, 65536]"));
  EXPECT_TRUE(contains(error_of([] { blocks_of({{int64_t{1} << 40, int64_t{1} << 40}}); }), "adamw"));
  const std::vector<std::pair<int64_t, int64_t>> many(1 << 11, {65535, 65537});
  EXPECT_TRUE(contains(error_of([&] { blocks_of(many); }), "adamw: parameters of more than 2^31 blocks"));
}

void mark_kernel(int* blocks) {
  if (threadIdx.x == 0) blocks[2 * blockIdx.y + blockIdx.x] = 1;
}

TEST(Limits, AGridBeyondADeviceIsNamed) {
  std::vector<int> blocks(6);
  const auto launch = [&](int64_t x, int64_t y, int64_t shared_bytes) {
    rankfold::kernels::launch("mark", mark_kernel, {x, y}, 32, shared_bytes, nullptr, blocks.data());
  };
  launch(2, 3, 0);
  EXPECT_EQ(blocks, std::vector<int>(6, 1));
  for (const auto& [x, y] :
       {std::pair<int64_t, int64_t>{int64_t{1} << 31, 1}, {(int64_t{1} << 32) + 1, 1}, {1, 65536}, {-1, 1}})
    EXPECT_TRUE(contains(error_of([&, x = x, y = y] { launch(x, y, 0); }), "kernel mark: a grid of"));
  EXPECT_TRUE(contains(error_of([&] { launch(1, 1, (int64_t{1} << 32) + 16); }), "bytes of shared memory"));
}

}  // namespace
