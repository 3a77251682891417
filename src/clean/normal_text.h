// Texts as rows are compared by them. All take UTF-8 that is known to be sound.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

// Soft hyphens, zero-width spaces and joiners, marks of direction, byte order marks.
inline bool is_unseen(uint32_t c) {
  return c == 0xAD || (c >= 0x200B && c <= 0x200F) || (c >= 0x202A && c <= 0x202E) || c == 0x2060 ||
         (c >= 0x2066 && c <= 0x2069) || c == 0xFEFF;
}

// Full-width ASCII as ASCII (U+FF01 to U+FF5E), each run of white space as one space, none at the ends, and without
// characters that cannot be seen.
std::string normal_text(std::string_view text);

// 128 bits: of a thousand million texts no two have the same by chance.
struct TextHash {
  uint64_t high = 0, low = 0;
  bool operator==(const TextHash&) const = default;
};
TextHash text_hash(std::string_view text);

// The pieces of which near duplicates have most in common. A piece is a window of neighbouring characters that are at
// least kShingleColumns wide together: three Chinese characters, six letters, or a mixture; one window for each
// character that it can begin at. White space and case do not count, nor does what normal_text() leaves out. A text
// that is narrower has one piece, an empty one none. The pieces come as hashes, in the order of the text, with
// repetitions; pieces beyond the first kMostShingles are left out.
inline constexpr uint32_t kShingleColumns = 6;
inline constexpr size_t kMostShingles = 1 << 20;
std::vector<uint64_t> shingles(std::string_view text);

// Sorted, each once: what jaccard() takes.
void make_set(std::vector<uint64_t>& shingles);

// The shingles that both have, as a share of those that any of the two has.
double jaccard(std::span<const uint64_t> a, std::span<const uint64_t> b);

// Columns of a terminal: Chinese, Japanese and Korean characters take two.
uint32_t columns_of_character(uint32_t character);
size_t count_columns(std::string_view text);

}  // namespace rankfold
