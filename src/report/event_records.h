// Records of TensorBoard's event files (events.out.tfevents.*): protobuf messages Event, each framed as a TFRecord.
// A file is file_version_record(), followed by records of scalars. Pure functions.
//   record   u64 length | u32 masked CRC-32C of the length | message | u32 masked CRC-32C of the message, little-endian
//   Event    1 wall_time double | 2 step int64 | 3 file_version string | 5 summary Summary
//   Summary  1 value Value, repeated;  Value: 1 tag string | 2 simple_value float
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

struct Scalar {
  std::string tag;   // "train/loss"
  double value = 0;  // the file holds a float
};

std::string file_version_record(double wall_time);  // wall_time: seconds since 1970
std::string scalars_record(double wall_time, int64_t step, const std::vector<Scalar>& scalars);

// Step and time of each scalar record in a file that these functions wrote, up to the first damaged record.
struct EventTime {
  int64_t step = 0;
  double wall_time = 0;
};
std::vector<EventTime> event_times(std::string_view file);

uint32_t crc32c(std::string_view bytes);  // Castagnoli polynomial

}  // namespace rankfold
