// One micro-batch. Sequences of different lengths lie end to end: nothing is padded.
//
// Dropout is a function of the seed, the step, the module, the row and the position in it. Who accumulates gradients
// over several batches before a step of the optimizer sets, in each of them, `step` to the number of that step (0, 1,
// ... over the whole run) and `first_row` to the number of rows in the batches before it. The gradient is then that of
// one batch of all the rows. Two batches with the same `step` and `first_row` drop the same places.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace rankfold {

inline constexpr int64_t kIgnoreIndex = -100;  // label of a position that does not count

struct Batch {
  at::Tensor tokens;             // [T] int64
  at::Tensor labels;             // [T] int64: the token that position t must predict (shifted already), or kIgnoreIndex
  at::Tensor positions;          // [T] int64: 0, 1, ... within each sequence
  std::vector<int64_t> offsets;  // [B + 1]: sequence b is the tokens offsets[b] ... offsets[b + 1] - 1
  std::vector<int64_t> samples;  // [B]: index of each row in its Dataset
  int64_t first_row = 0;         // number of its first row within the accumulation window; counts for dropout
  int64_t step = 0;              // optimizer step it belongs to; counts for dropout

  int64_t rows() const { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t token_count() const { return offsets.empty() ? 0 : offsets.back(); }
  int64_t label_count() const;  // labels that count
};

// Lays sequences end to end. `labels` are in Hugging Face's convention (labels[i] belongs to input_ids[i], kIgnoreIndex
// where it does not count); they are shifted here. Throws std::invalid_argument for an empty or uneven row.
struct Sequence {
  const std::vector<int32_t>* input_ids = nullptr;
  const std::vector<int32_t>* labels = nullptr;  // null: no label counts
};
Batch make_batch(const std::vector<Sequence>& rows);

}  // namespace rankfold
