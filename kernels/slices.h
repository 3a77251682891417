// Chooses the variant of a kernel by alignment and number of update columns. Splits updates with more columns than one
// launch has registers for into several launches (slices).
#pragma once

#include "kernels/types.h"

#include <algorithm>
#include <type_traits>
#include <vector>

namespace rankfold::kernels {

// Whether rows at x with pitch ld allow aligned accesses of eight elements. True for a null pointer, which is not used.
inline bool is_aligned(const void* x, int64_t ld = 0) {
  return reinterpret_cast<uintptr_t>(x) % 16 == 0 && ld % 8 == 0;
}

template <class T>
constexpr int64_t kMostColumns = sizeof(T) == 2 ? 64 : 32;

// Calls f with the number of 8-column tiles of the smallest kernel variant for so many columns, an integral_constant.
// Unaligned data has two variants only: no columns, and kMostColumns.
template <class T, bool kAligned, class F>
void with_column_tiles(int64_t columns, F&& f) {
  if (columns == 0) return f(std::integral_constant<int, 0>());
  if constexpr (kAligned) {
    if (columns <= 16) return f(std::integral_constant<int, 2>());
    if constexpr (sizeof(T) == 2) {
      if (columns <= 48) return f(std::integral_constant<int, 6>());
    }
  }
  f(std::integral_constant<int, kMostColumns<T> / 8>());
}

struct Slice {
  int64_t begin = 0;  // first column
  Updates updates;    // those with columns in this slice; columns are counted from `begin`
};

// Gives at least one slice, even without updates.
inline std::vector<Slice> slices(const Updates& updates, int64_t most_columns) {
  std::vector<Slice> all;
  int64_t begin = 0;
  do {
    const int64_t end = std::min(begin + most_columns, updates.columns());
    Slice slice{begin, updates};
    slice.updates.count = 0;
    for (int32_t u = 0; u < updates.count; ++u) {
      Update part = updates.update[u];
      part.begin = static_cast<int32_t>(std::max<int64_t>(part.begin, begin) - begin);
      part.end = static_cast<int32_t>(std::min<int64_t>(part.end, end) - begin);
      if (part.begin < part.end) slice.updates.update[slice.updates.count++] = part;
    }
    all.push_back(slice);
    begin = end;
  } while (begin < updates.columns());
  return all;
}

}  // namespace rankfold::kernels
