// GBK, the encoding of Chinese Windows: what is no UTF-8 among Chinese texts is mostly this.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace rankfold::gbk {

// As UTF-8; nullopt where a byte belongs to no character of GBK. ASCII stays as it is.
std::optional<std::string> decode(std::string_view bytes);

// Whether the bytes are likely Chinese in GBK: all of them decode, and of the characters beyond ASCII at least four in
// five are punctuation or among the 3,755 most frequent Chinese ones. Western text in Latin-1 and Big5 are not.
bool is_likely(std::string_view bytes);

// The two bytes of a character, the first one in the high half; 0: GBK lacks it, or it is ASCII.
uint16_t encode(uint32_t character);

// Of punctuation, full-width ASCII, and the 3,755 most frequent Chinese characters (GB2312's first level).
inline bool is_frequent(uint16_t pair) {
  return (pair & 0xFF) >= 0xA1 && ((pair >= 0xA1A1 && pair <= 0xA3FE) || (pair >= 0xB0A1 && pair <= 0xD7F9));
}

// The table.
extern const uint32_t kRuns[];
extern const size_t kRunCount;

}  // namespace rankfold::gbk
