#include "ops/code_books.h"

#include "core/check.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace rankfold::ops {
namespace {

CodeBook make_code_book(const std::array<float, 16>& values) {
  CodeBook book{.values = values, .bounds = {}, .order = {}};
  for (size_t i = 0; i < 16; ++i) book.order[i] = static_cast<uint8_t>(i);
  std::stable_sort(book.order.begin(), book.order.end(), [&](uint8_t a, uint8_t b) { return values[a] < values[b]; });
  for (size_t i = 0; i < 15; ++i) book.bounds[i] = (values[book.order[i]] + values[book.order[i + 1]]) / 2;
  return book;
}

std::array<float, 16> fp4_values() {  // a sign, and eight numbers of which the largest becomes 1
  std::array<float, 16> values{0, 0.0625, 8, 12, 4, 6, 2, 3};
  for (size_t i = 0; i < 8; ++i) {
    values[i] /= 12;
    values[i + 8] = values[i] > 0 ? -values[i] : 0;
  }
  return values;
}

// The decade below 10^(i - 6) has 2^i numbers of each sign: the middles of equal parts of [0.1, 1], as torch.linspace
// divides it.
std::array<float, 256> make_dynamic_values() {
  std::array<float, 256> values{};
  size_t count = 0;
  for (int i = 0; i < 7; ++i) {
    const int parts = 1 << i;
    const float first = 0.1f, step = (1 - first) / static_cast<float>(parts);
    const auto border = [&](int j) {
      return j < (parts + 1) / 2 ? std::fma(step, static_cast<float>(j), first)
                                 : std::fma(-step, static_cast<float>(parts - j), 1.0f);
    };
    const float decade = static_cast<float>(std::pow(10.0, i - 6));
    for (int j = 0; j < parts; ++j) {
      const float middle = decade * ((border(j) + border(j + 1)) / 2);
      values[count++] = middle;
      values[count++] = -middle;
    }
  }
  values[count++] = 0;
  values[count++] = 1;
  RANKFOLD_ASSERT(count == values.size());
  std::sort(values.begin(), values.end());
  return values;
}

constexpr int32_t kDynamicSteps = 65535;

std::vector<uint8_t> make_dynamic_codes() {
  const std::array<float, 256>& values = dynamic_values();
  std::array<float, 255> bounds;
  for (size_t i = 0; i < 255; ++i) bounds[i] = (values[i] + values[i + 1]) / 2;
  std::vector<uint8_t> codes(kDynamicSteps + 1);
  for (int32_t i = 0; i <= kDynamicSteps; ++i) {
    const float x = static_cast<float>(static_cast<double>(i) / kDynamicSteps * 2 - 1);
    codes[static_cast<size_t>(i)] =
        static_cast<uint8_t>(std::lower_bound(bounds.begin(), bounds.end(), x) - bounds.begin());
  }
  return codes;
}

}  // namespace

const CodeBook& code_book(Quantization type) {
  // Quantiles of a normal distribution, from the paper on QLoRA (arXiv:2305.14314, appendix E).
  static const CodeBook nf4 =
      make_code_book({-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
                      -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
                      0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f,
                      0.7229568362236023f, 1.0f});
  static const CodeBook fp4 = make_code_book(fp4_values());
  RANKFOLD_CHECK(type == Quantization::nf4 || type == Quantization::fp4, "code_book: expected nf4 or fp4");
  return type == Quantization::nf4 ? nf4 : fp4;
}

const std::array<float, 256>& dynamic_values() {
  static const std::array<float, 256> values = make_dynamic_values();
  return values;
}

uint8_t dynamic_code(float x) {
  static const std::vector<uint8_t> codes = make_dynamic_codes();
  const float bounded = x > -1 ? std::min(x, 1.0f) : -1.0f;
  return codes[static_cast<size_t>((bounded + 1) * 0.5f * kDynamicSteps + 0.5f)];
}

}  // namespace rankfold::ops
