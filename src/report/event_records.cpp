#include "report/event_records.h"

#include <array>
#include <bit>

namespace rankfold {
namespace {

constexpr std::array<uint32_t, 256> kCrcTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82F63B78u : 0);
    table[byte] = crc;
  }
  return table;
}();

// As TFRecord stores it: a checksum over bytes that hold checksums would be weak.
uint32_t masked_crc(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xA282EAD8u; }

template <class Integer>
std::string little_endian(Integer value) {
  std::string bytes;
  for (size_t i = 0; i < sizeof value; ++i) bytes += static_cast<char>(value >> 8 * i & 0xFF);
  return bytes;
}

uint64_t read_little_endian(std::string_view bytes, size_t at, size_t size) {
  uint64_t value = 0;
  for (size_t i = 0; i < size; ++i) value |= static_cast<uint64_t>(static_cast<unsigned char>(bytes[at + i])) << 8 * i;
  return value;
}

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>((value & 0x7F) | 0x80);
  return bytes + static_cast<char>(value);
}

// Fields of a message: what stands before a value says its number and kind.
constexpr char kWallTime = 1 << 3 | 1, kStep = 2 << 3 | 0, kFileVersion = 3 << 3 | 2, kSummary = 5 << 3 | 2;
constexpr char kValue = 1 << 3 | 2, kTag = 1 << 3 | 2, kSimpleValue = 2 << 3 | 5;

std::string with_length(char field, std::string_view bytes) {
  return field + varint(bytes.size()) + std::string(bytes);
}

std::string record(std::string_view message) {
  const std::string length = little_endian(uint64_t{message.size()});
  return length + little_endian(masked_crc(length)) + std::string(message) + little_endian(masked_crc(message));
}

std::string wall_time_field(double wall_time) { return kWallTime + little_endian(std::bit_cast<uint64_t>(wall_time)); }

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (const char c : bytes) crc = (crc >> 8) ^ kCrcTable[(crc ^ static_cast<unsigned char>(c)) & 0xFF];
  return ~crc;
}

std::string file_version_record(double wall_time) {
  return record(wall_time_field(wall_time) + with_length(kFileVersion, "brain.Event:2"));
}

std::string scalars_record(double wall_time, int64_t step, const std::vector<Scalar>& scalars) {
  std::string summary;
  for (const Scalar& scalar : scalars) {
    const auto bits = std::bit_cast<uint32_t>(static_cast<float>(scalar.value));
    summary += with_length(kValue, with_length(kTag, scalar.tag) + kSimpleValue + little_endian(bits));
  }
  return record(wall_time_field(wall_time) + kStep + varint(static_cast<uint64_t>(step)) +
                with_length(kSummary, summary));
}

std::vector<EventTime> event_times(std::string_view file) {
  constexpr size_t kHead = 12, kTail = 4, kTime = 1 + 8;  // bytes
  std::vector<EventTime> times;
  for (size_t at = 0; file.size() - at >= kHead + kTail;) {
    const uint64_t size = read_little_endian(file, at, 8);
    if (size > file.size() - at - kHead - kTail) break;
    const std::string_view message = file.substr(at + kHead, size);
    if (read_little_endian(file, at + 8, 4) != masked_crc(file.substr(at, 8)) ||
        read_little_endian(file, at + kHead + size, 4) != masked_crc(message))
      break;
    at += kHead + size + kTail;
    if (size <= kTime + 1 || message[0] != kWallTime || message[kTime] != kStep) continue;  // the version
    EventTime time = {.wall_time = std::bit_cast<double>(read_little_endian(message, 1, 8))};
    uint64_t step = 0;
    for (size_t i = kTime + 1, shift = 0; i < size && shift < 64; ++i, shift += 7) {
      step |= static_cast<uint64_t>(message[i] & 0x7F) << shift;
      if ((message[i] & 0x80) == 0) break;
    }
    time.step = static_cast<int64_t>(step);
    times.push_back(time);
  }
  return times;
}

}  // namespace rankfold
