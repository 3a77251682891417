#include "core/checksum.h"

#include <random>
#include <string_view>
#include <vector>

namespace rankfold {
namespace {

uint64_t bit_by_bit(std::span<const std::byte> bytes) {
  uint64_t crc = ~kChecksumSeed;
  for (const std::byte byte : bytes) {
    crc ^= static_cast<uint64_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0xC96C5795D7870F42u : 0);
  }
  return ~crc;
}

TEST(Checksum, IsTheOneOfXz) {
  const std::string_view text = "123456789";
  EXPECT_EQ(checksum64(std::as_bytes(std::span(text))), 0x995DC9BBDF1939FAu);
  EXPECT_EQ(checksum_text(0x99), "0000000000000099");
}

TEST(Checksum, IsTheSameForEveryLengthPlaceAndSplit) {
  std::mt19937 random(1);
  std::vector<std::byte> bytes(1100);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  const std::span<const std::byte> all(bytes);
  for (size_t size = 0; size < 1000; ++size) {
    const auto part = all.subspan(random() % 100, size);
    const uint64_t expected = bit_by_bit(part);
    ASSERT_EQ(checksum64(part), expected) << size;
    const size_t cut = random() % (size + 1);
    ASSERT_EQ(checksum64(part.subspan(cut), checksum64(part.first(cut))), expected) << size << " cut at " << cut;
  }
}

}  // namespace
}  // namespace rankfold
