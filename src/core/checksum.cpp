#include "core/checksum.h"

#include <array>
#include <cstdio>
#include <cstring>

namespace rankfold {
namespace {

// tables[n][b]: what byte b followed by n zero bytes does; eight bytes are folded at a time.
using Tables = std::array<std::array<uint64_t, 256>, 8>;
constexpr Tables make_tables() {
  Tables tables{};
  for (uint64_t b = 0; b < 256; ++b) {
    uint64_t crc = b;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0xC96C5795D7870F42u : 0);
    tables[0][b] = crc;
  }
  for (size_t n = 1; n < 8; ++n)
    for (size_t b = 0; b < 256; ++b) tables[n][b] = (tables[n - 1][b] >> 8) ^ tables[0][tables[n - 1][b] & 0xff];
  return tables;
}
constexpr Tables kTables = make_tables();

}  // namespace

uint64_t checksum64(std::span<const std::byte> bytes, uint64_t before) {
  uint64_t crc = ~before;
  size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + i, 8);
    word ^= crc;
    crc = 0;
    for (size_t n = 0; n < 8; ++n) crc ^= kTables[7 - n][(word >> (8 * n)) & 0xff];
  }
  for (; i < bytes.size(); ++i) crc = (crc >> 8) ^ kTables[0][(crc ^ static_cast<uint64_t>(bytes[i])) & 0xff];
  return ~crc;
}

std::string checksum_text(uint64_t checksum) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(checksum));
  return text;
}

}  // namespace rankfold
