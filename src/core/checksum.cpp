#include "core/checksum.h"

#include <array>
#include <cstdio>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace rankfold {
namespace {

constexpr uint64_t kPolynomial = 0xC96C5795D7870F42u;

// `crc` times x: bits are reflected, the highest power of x is the lowest bit.
constexpr uint64_t times_x(uint64_t crc) { return (crc >> 1) ^ (crc & 1 ? kPolynomial : 0); }

// tables[n][b]: what byte b followed by n zero bytes does; eight bytes are folded at a time.
using Tables = std::array<std::array<uint64_t, 256>, 8>;
constexpr Tables make_tables() {
  Tables tables{};
  for (uint64_t b = 0; b < 256; ++b) {
    uint64_t crc = b;
    for (int bit = 0; bit < 8; ++bit) crc = times_x(crc);
    tables[0][b] = crc;
  }
  for (size_t n = 1; n < 8; ++n)
    for (size_t b = 0; b < 256; ++b) tables[n][b] = (tables[n - 1][b] >> 8) ^ tables[0][tables[n - 1][b] & 0xff];
  return tables;
}
constexpr Tables kTables = make_tables();

uint64_t by_tables(std::span<const std::byte> bytes, uint64_t crc) {
  size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + i, 8);
    word ^= crc;
    crc = 0;
    for (size_t n = 0; n < 8; ++n) crc ^= kTables[7 - n][(word >> (8 * n)) & 0xff];
  }
  for (; i < bytes.size(); ++i) crc = (crc >> 8) ^ kTables[0][(crc ^ static_cast<uint64_t>(bytes[i])) & 0xff];
  return crc;
}

#if defined(__x86_64__)
constexpr long long power_of_x(int n) {
  uint64_t power = uint64_t{1} << 63;
  for (int i = 0; i < n; ++i) power = times_x(power);
  return static_cast<long long>(power);
}

// 16 bytes that are worth as much as `state` with `distance` bytes after it: its first half times x^(8 distance + 64)
// plus its second half times x^(8 distance). One power less each: a product of reflected words comes out times x.
template <int distance>
__attribute__((target("pclmul"))) __m128i moved(__m128i state) {
  const __m128i powers = _mm_set_epi64x(power_of_x(8 * distance - 1), power_of_x(8 * distance + 63));
  return _mm_xor_si128(_mm_clmulepi64_si128(state, powers, 0x00), _mm_clmulepi64_si128(state, powers, 0x11));
}

// Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction" (Intel 2009): whole pieces
// of 64 bytes become 16 with the same remainder, at the speed of memory. `bytes` keeps what is left.
__attribute__((target("pclmul"))) uint64_t by_products(std::span<const std::byte>& bytes, uint64_t crc) {
  const auto* in = reinterpret_cast<const __m128i*>(bytes.data());
  __m128i lanes[4];
  for (int i = 0; i < 4; ++i) lanes[i] = _mm_loadu_si128(in + i);
  lanes[0] = _mm_xor_si128(lanes[0], _mm_cvtsi64_si128(static_cast<long long>(crc)));
  const size_t pieces = bytes.size() / 64;
  for (size_t piece = 1; piece < pieces; ++piece)
    for (int i = 0; i < 4; ++i)
      lanes[i] = _mm_xor_si128(moved<64>(lanes[i]), _mm_loadu_si128(in + 4 * piece + static_cast<size_t>(i)));
  for (int i = 1; i < 4; ++i) lanes[i] = _mm_xor_si128(moved<16>(lanes[i - 1]), lanes[i]);
  bytes = bytes.subspan(pieces * 64);
  return by_tables(std::as_bytes(std::span(&lanes[3], 1)), 0);
}
#endif

}  // namespace

uint64_t checksum64(std::span<const std::byte> bytes, uint64_t before) {
  uint64_t crc = ~before;
#if defined(__x86_64__)
  if (bytes.size() >= 64 && __builtin_cpu_supports("pclmul")) crc = by_products(bytes, crc);
#endif
  return ~by_tables(bytes, crc);
}

std::string checksum_text(uint64_t checksum) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(checksum));
  return text;
}

}  // namespace rankfold
