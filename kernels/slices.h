// The choice of the kernel: by alignment, and by the number of columns; updates of more columns than one launch has
// registers for, cut into ranges that it has.
#pragma once

#include "kernels/types.h"

#include <algorithm>
#include <type_traits>
#include <vector>

namespace rankfold::kernels {

// Whether eight elements of a row can be accessed at once: its pointer (null: not used) and its pitch.
inline bool is_aligned(const void* x, int64_t ld = 0) {
  return reinterpret_cast<uintptr_t>(x) % 16 == 0 && ld % 8 == 0;
}

template <class T>
constexpr int64_t kMostColumns = sizeof(T) == 2 ? 64 : 32;

// Calls f with the number of 8-column tiles, an integral_constant, that a kernel for so many columns is made for. The
// variant for data that is not aligned is made for none and for the most.
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
  Updates updates;    // those that have columns in the range, counted from its begin
};

// At least one slice, also where there is no update.
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
