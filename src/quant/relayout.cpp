#include "quant/relayout.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace rankfold {
namespace {

constexpr int64_t kTile = 16;   // words in a line of the cache
constexpr int64_t kDepth = 64;  // lines of a tile: 4 KiB
// Where nibble n of a word of awq lies.
constexpr int kAwqPlace[8] = {0, 4, 1, 5, 2, 6, 3, 7};

}  // namespace

at::Tensor codes_of_columns(const at::Tensor& words) {
  const int64_t depth = words.size(0), rows = words.size(1);
  at::Tensor codes = at::empty({rows, 4 * depth}, at::kByte);
  const auto* from = static_cast<const uint32_t*>(words.const_data_ptr());
  auto* to = codes.mutable_data_ptr<uint8_t>();
  at::parallel_for(0, (rows + kTile - 1) / kTile, 1, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t first = tile * kTile, last = std::min(first + kTile, rows);
      for (int64_t top = 0; top < depth; top += kDepth) {
        const int64_t bottom = std::min(top + kDepth, depth);
        for (int64_t n = first; n < last; ++n)
          for (int64_t p = top; p < bottom; ++p)
            std::memcpy(to + 4 * (n * depth + p), from + p * rows + n, sizeof(uint32_t));
      }
    }
  });
  return codes;
}

at::Tensor codes_of_awq(const at::Tensor& words) {
  const int64_t columns = words.size(0), width = words.size(1), pitch = (columns + 1) / 2;
  at::Tensor codes = at::empty({8 * width, pitch}, at::kByte);
  const auto* from = static_cast<const uint32_t*>(words.const_data_ptr());
  auto* to = codes.mutable_data_ptr<uint8_t>();
  at::parallel_for(0, (width + kTile - 1) / kTile, 1, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t first = tile * kTile, last = std::min(first + kTile, width);
      for (int64_t top = 0; top < pitch; top += kDepth / 2) {
        const int64_t bottom = std::min(top + kDepth / 2, pitch);
        for (int64_t j = first; j < last; ++j)
          for (int64_t pair = top; pair < bottom; ++pair) {
            const uint32_t even = from[2 * pair * width + j];
            const uint32_t odd = 2 * pair + 1 < columns ? from[(2 * pair + 1) * width + j] : 0;
            for (int64_t i = 0; i < 8; ++i) {
              const int shift = 4 * kAwqPlace[i];
              to[(8 * j + i) * pitch + pair] =
                  static_cast<uint8_t>(((even >> shift) & 15) | (((odd >> shift) & 15) << 4));
            }
          }
      }
    }
  });
  return codes;
}

at::Tensor codes_of_int8(const at::Tensor& signed_codes) {
  at::Tensor codes = at::empty(signed_codes.sizes(), at::kByte);
  const auto* from = static_cast<const uint8_t*>(signed_codes.const_data_ptr());
  auto* to = codes.mutable_data_ptr<uint8_t>();
  constexpr int64_t kLeast = 1 << 16;
  at::parallel_for(0, codes.numel(), kLeast, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = from[i] ^ 0x80;
  });
  return codes;
}

at::Tensor zeros_of(const at::Tensor& words, ZeroOrder order, int bits, int64_t rows, int64_t groups, int more) {
  at::Tensor zeros = at::empty({rows, groups}, at::kByte);
  const auto* from = static_cast<const uint32_t*>(words.const_data_ptr());
  auto* to = zeros.mutable_data_ptr<uint8_t>();
  const int64_t per_word = 32 / bits, width = words.size(1);
  const uint32_t mask = (1u << bits) - 1;
  constexpr int64_t kLeast = 1 << 14;
  at::parallel_for(0, rows, std::max<int64_t>(1, kLeast / groups), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t word = n / per_word, place = n % per_word;
      const int shift = bits * (order == ZeroOrder::awq ? kAwqPlace[place] : static_cast<int>(place));
      for (int64_t g = 0; g < groups; ++g) {
        const uint32_t packed = order == ZeroOrder::packed ? from[word * width + g] : from[g * width + word];
        to[n * groups + g] = static_cast<uint8_t>(((packed >> shift) + static_cast<uint32_t>(more)) & mask);
      }
    }
  });
  return zeros;
}

bool is_finite(const at::Tensor& values) {
  const float* x = values.const_data_ptr<float>();
  constexpr int64_t kLeast = 1 << 16;
  return at::parallel_reduce(
      0, values.numel(), kLeast, true,
      [&](int64_t begin, int64_t end, bool all) {
        for (int64_t i = begin; i < end; ++i) all &= std::isfinite(x[i]);
        return all;
      },
      [](bool a, bool b) { return a && b; });
}

}  // namespace rankfold
