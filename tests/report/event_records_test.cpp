#include "report/event_records.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace rankfold {
namespace {

std::string bytes(std::initializer_list<int> values) {
  std::string text;
  for (const int value : values) text += static_cast<char>(value);
  return text;
}

// Of RFC 3720, B.4, and of the catalogue of CRCs.
TEST(Crc32c, HasItsCheckValues) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43u);
}

// Made by TensorFlow's format by hand: wall_time 1.0, file_version "brain.Event:2". The two checksums are those that
// tensorboard's reader computes (tests/oracle reads whole files with it).
TEST(EventRecords, AreBytesOfTheFormat) {
  const std::string message = bytes({0x09, 0, 0, 0, 0, 0, 0, 0xF0, 0x3F, 0x1A, 13}) + "brain.Event:2";
  const std::string made = file_version_record(1.0);
  ASSERT_EQ(made.size(), 8 + 4 + message.size() + 4);
  EXPECT_EQ(made.substr(0, 8), bytes({24, 0, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(made.substr(8, 4), bytes({0xA3, 0x7F, 0x4B, 0x22}));
  EXPECT_EQ(made.substr(12, message.size()), message);

  const std::string scalar = scalars_record(1.0, 300, {{.tag = "a", .value = 0.5}});
  EXPECT_EQ(scalar.substr(12, scalar.size() - 16),
            bytes({0x09, 0,  0,    0, 0,    0, 0,   0xF0, 0x3F, 0x10, 0xAC, 0x02,
                   0x2A, 10, 0x0A, 8, 0x0A, 1, 'a', 0x15, 0,    0,    0,    0x3F}));
}

TEST(EventRecords, SayStepAndTimeAgain) {
  std::string file = file_version_record(5);
  const int64_t steps[] = {0, 1, 127, 128, 300, int64_t{1} << 40};
  for (const int64_t step : steps)
    file += scalars_record(1e9 + static_cast<double>(step), step, {{"train/loss", NAN}, {"train/grad_norm", 1}});
  const std::vector<EventTime> times = event_times(file);
  ASSERT_EQ(times.size(), std::size(steps));
  for (size_t i = 0; i < times.size(); ++i) {
    EXPECT_EQ(times[i].step, steps[i]);
    EXPECT_EQ(times[i].wall_time, 1e9 + static_cast<double>(steps[i]));
  }
}

TEST(EventRecords, AreReadUpToTheFirstThatIsDamaged) {
  std::string file = file_version_record(5);
  std::vector<size_t> ends;
  for (int64_t step = 1; step <= 3; ++step) {
    file += scalars_record(7, step, {{"train/loss", 1}});
    ends.push_back(file.size());
  }
  for (size_t cut = 0; cut <= file.size(); ++cut) {
    const auto whole = static_cast<size_t>(std::count_if(ends.begin(), ends.end(), [&](size_t e) { return e <= cut; }));
    EXPECT_EQ(event_times(file.substr(0, cut)).size(), whole) << cut;
  }
  for (size_t at = ends[0]; at < ends[1]; ++at) {
    std::string damaged = file;
    damaged[at] ^= 0x20;
    EXPECT_EQ(event_times(damaged).size(), 1u) << at;
  }
}

}  // namespace
}  // namespace rankfold
