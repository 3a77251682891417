// The updates of one projection for the cases of down, output_grad and input_grad.
#pragma once

#include <array>
#include <cmath>

#include "kernels/context.h"

namespace rankfold::kernels::testing {

// Philox 4x32-10 as its paper writes it.
std::array<uint32_t, 4> philox_reference(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

struct LowRank {
  Updates updates;
  std::vector<int64_t> ranks;
  int64_t k = 0;
  std::vector<std::vector<uint8_t>> kept_MK;  // of each update

  int64_t columns() const { return updates.columns(); }
  bool is_kept(int u, int64_t m, int64_t feature) const {
    return kept_MK[static_cast<size_t>(u)][static_cast<size_t>(m * k + feature)];
  }
  // Calls f(update, column of S) for the columns that are not padding.
  template <class F>
  void each_column(F&& f) const {
    for (int u = 0; u < updates.count; ++u)
      for (int64_t r = 0; r < ranks[static_cast<size_t>(u)]; ++r) f(u, updates.update[u].begin + r);
  }
  // [rows, columns()] of normal numbers, zero in the padding.
  Numbers padded(Context& c, int64_t rows, double deviation) const;
};

LowRank make_low_rank(Context& c, const std::vector<int64_t>& ranks, double drop_prob, int64_t m, int64_t k);

// "r8_8_8"
std::string name_of_ranks(const std::vector<int64_t>& ranks);
// What tells the cases of down and of input_grad apart, but for what is special about one.
std::string name_of_case(const char* kernel, Source source, Dtype dtype, int64_t m, int64_t k,
                         const std::vector<int64_t>& ranks, double drop_prob);

// Columns [begin, end) of a dense matrix of `width` columns.
Numbers columns_of(const Numbers& x, int64_t width, int64_t begin, int64_t end);
Numbers transposed(const Numbers& x, int64_t rows, int64_t cols);

// What a gate goes through, by its textbook formula, and its derivative.
template <class Real>
Real activation(Real x, bool gelu) {
  if (!gelu) return x / (1 + std::exp(-x));
  const Real root = std::sqrt(2 / std::acos(Real(-1)));
  return x / 2 * (1 + std::tanh(root * (x + Real(0.044715) * x * x * x)));
}
template <class Real>
Real activation_slope(Real x, bool gelu) {
  if (!gelu) {
    const Real sigmoid = 1 / (1 + std::exp(-x));
    return sigmoid * (1 + x * (1 - sigmoid));
  }
  const Real root = std::sqrt(2 / std::acos(Real(-1))), bent = std::tanh(root * (x + Real(0.044715) * x * x * x));
  return (1 + bent) / 2 + x / 2 * (1 - bent * bent) * root * (1 + 3 * Real(0.044715) * x * x);
}
constexpr Gate kGelu{1.59576912f, 0.0713548163f};  // of that activation

}  // namespace rankfold::kernels::testing
