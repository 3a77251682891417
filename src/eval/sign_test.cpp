#include "eval/sign_test.h"

#include <algorithm>
#include <cmath>

namespace rankfold {

double sign_test(int64_t wins, int64_t losses) {
  const int64_t n = wins + losses;
  const auto fewer = static_cast<double>(std::min(wins, losses));
  // The sum of choose(n, k) for k up to `fewer`, as multiples of its last and largest term.
  double sum = 1, term = 1;
  for (double k = fewer; k > 0 && term > 1e-20 * sum; --k) sum += term *= k / (static_cast<double>(n) - k + 1);
  const double largest = std::lgamma(static_cast<double>(n) + 1) - std::lgamma(fewer + 1) -
                         std::lgamma(static_cast<double>(n) - fewer + 1) - static_cast<double>(n) * std::log(2.0);
  return std::min(1.0, 2 * std::exp(largest) * sum);
}

}  // namespace rankfold
