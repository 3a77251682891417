// Whether one of two models is better more often than chance explains.
#pragma once

#include <cstdint>

namespace rankfold {

// The p value of the exact two-sided sign test: the probability that wins + losses tosses of a fair coin give a split
// at least as uneven. Leave ties out. Counts must not be negative. The result is in [0, 1]: 1 for no tosses, 0 if it is
// too small for a double. Accurate to a few roundings of the logarithm of (wins + losses)!.
double sign_test(int64_t wins, int64_t losses);

}  // namespace rankfold
