// CRC-64 (the XZ polynomial, reflected): tells a damaged file from a whole one. Not against forgery.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace rankfold {

inline constexpr uint64_t kChecksumSeed = 0;
uint64_t checksum64(std::span<const std::byte> bytes, uint64_t before = kChecksumSeed);  // can be continued
std::string checksum_text(uint64_t checksum);                                            // 16 hexadecimal digits

}  // namespace rankfold
