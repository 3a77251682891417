#include "cli/progress.h"

#include "core/utf8.h"
#include "support/contains.h"

#include <gtest/gtest.h>

#include <limits>

namespace rankfold {
namespace {

using testing::contains;

BarState half_way() {
  return {.progress = {.step = 1234,
                       .total_steps = 2468,
                       .epoch = 1.5,
                       .tokens_per_second = 3456.7,
                       .seconds_left = 75,
                       .seconds_elapsed = 3675},
          .loss = 0.98765,
          .peak_memory_bytes = int64_t{5} << 30};
}

// Columns: each of our characters takes one.
size_t columns_of(const std::string& line) {
  EXPECT_TRUE(is_utf8(line));
  size_t columns = 0;
  for (const char c : line) columns += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return columns;
}

TEST(BarLine, FitsEveryWidth) {
  BarState extreme = half_way();
  extreme.progress.step = extreme.progress.total_steps = std::numeric_limits<int64_t>::max();
  extreme.progress.tokens_per_second = extreme.progress.seconds_left = std::numeric_limits<double>::infinity();
  extreme.loss = -1e300;
  for (const BarState& state : {half_way(), extreme, BarState{}})
    for (const bool unicode : {false, true})
      for (size_t columns = 0; columns <= 250; ++columns) {
        const std::string line = bar_line(state, columns, unicode);
        EXPECT_LE(columns_of(line), columns > 0 ? columns - 1 : 0) << line;
        EXPECT_EQ(line.find_first_of("\r\n\x1b"), std::string::npos);
      }
}

TEST(BarLine, LeavesOutTheLeastImportantFirst) {
  const std::string wide = bar_line(half_way(), 160, false);
  for (const char* part : {" 50%", "[####", "1,234/2,468", "epoch 1.50", "loss 0.9877", "3,457 tokens/s", "5.00 GiB",
                           "1:01:15", "01:15 left"})
    EXPECT_TRUE(contains(wide, part));
  const std::string narrow = bar_line(half_way(), 60, false);
  for (const char* part : {" 50%", "[##", "1,234/2,468", "loss 0.9877", "01:15 left"})
    EXPECT_TRUE(contains(narrow, part));
  EXPECT_EQ(narrow.find("epoch"), std::string::npos);
  const std::string least = bar_line(half_way(), 40, false);
  for (const char* part : {" 50%", "1,234/2,468", "loss 0.9877"}) EXPECT_TRUE(contains(least, part));
  EXPECT_TRUE(contains(bar_line(half_way(), 44, false), "01:15 left"));
}

TEST(BarLine, FillsInProportion) {
  const auto bar = [](int64_t step, bool unicode) {
    return bar_line({.progress = {.step = step, .total_steps = 8}}, 200, unicode);
  };
  EXPECT_TRUE(contains(bar(0, false), "[" + std::string(38, '.') + "]"));
  EXPECT_TRUE(contains(bar(4, false), "[" + std::string(19, '#') + std::string(19, '.') + "]"));
  EXPECT_TRUE(contains(bar(8, false), "100% [" + std::string(38, '#') + "]"));
  EXPECT_TRUE(contains(bar(1, true), "█████░"));  // 5 of 40
  EXPECT_TRUE(contains(bar(3, true), "███████████████░"));
  EXPECT_EQ(bar(8, true).find("░"), std::string::npos);
}

}  // namespace
}  // namespace rankfold
