// Whether one of two is better more often than chance would have it.
#pragma once

#include <cstdint>

namespace rankfold {

// The exact two-sided sign test: how likely a split of wins + losses fair coin throws is that is at least as uneven, in
// (0, 1]. Ties are left out before. 1 where there is neither.
double sign_test(int64_t wins, int64_t losses);

}  // namespace rankfold
