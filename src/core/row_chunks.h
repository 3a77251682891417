// Processes a matrix in chunks of rows.
#pragma once

#include <algorithm>
#include <cstdint>

namespace rankfold {

// Calls f(first row, number of rows) for each chunk in order. A chunk has at least one row, and otherwise at most
// `most_elements` elements.
template <class F>
void for_row_chunks(int64_t rows, int64_t columns, int64_t most_elements, F&& f) {
  const int64_t step = std::max<int64_t>(1, most_elements / std::max<int64_t>(1, columns));
  for (int64_t row = 0; row < rows; row += step) f(row, std::min(step, rows - row));
}

}  // namespace rankfold
