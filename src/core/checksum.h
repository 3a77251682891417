// CRC-64 (the XZ polynomial, reflected). Detects damaged files; no protection against forgery.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace rankfold {

inline constexpr uint64_t kChecksumSeed = 0;
// `before`: the checksum of the preceding bytes, to continue it.
uint64_t checksum64(std::span<const std::byte> bytes, uint64_t before = kChecksumSeed);
std::string checksum_text(uint64_t checksum);  // 16 hexadecimal digits

}  // namespace rankfold
