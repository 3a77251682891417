// Whether one of two models is better more often than chance explains.
#pragma once

#include <cstdint>

namespace rankfold {

// The p of the exact two-sided sign test: how likely it is that wins + losses throws of a fair coin give a split at least
// as uneven. The caller leaves ties out. In [0, 1]: 1 for no throws, 0 for what a double cannot hold. Neither count may be
// below 0. Accurate to a few roundings of the logarithm of (wins + losses)!.
double sign_test(int64_t wins, int64_t losses);

}  // namespace rankfold
