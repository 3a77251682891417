// The characters with which byte-level BPE writes bytes. Printable bytes are written as themselves, the others as
// characters from U+0100 on; a space is U+0120.
#pragma once

#include <cstdint>

namespace rankfold {

struct ByteLevelTable {
  uint32_t character[256];  // for each byte
  int16_t byte[0x144];      // for each character; -1: none
  constexpr ByteLevelTable() : character(), byte() {
    for (int16_t& b : byte) b = -1;
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; ++b) {
      const bool is_printable = (b > 0x20 && b < 0x7F) || (b > 0xA0 && b != 0xAD);
      character[b] = is_printable ? b : next++;
      byte[character[b]] = static_cast<int16_t>(b);
    }
  }
  constexpr int byte_of(uint32_t c) const { return c < 0x144 ? byte[c] : -1; }
};
inline constexpr ByteLevelTable kByteLevel;

}  // namespace rankfold
