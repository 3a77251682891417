// One micro-batch. Sequences of different lengths are concatenated without padding.
//
// The dropout mask depends on the seed, the optimizer step, the module, the row and the position in the row. For
// gradient accumulation, set two fields in each micro-batch. `step` is the number of the optimizer step (0, 1, ... over
// the whole run). `first_row` is the number of rows in the earlier micro-batches of this step. The accumulated gradient
// then equals that of a single batch with all the rows. Two batches with the same `step` and `first_row` get the same
// dropout masks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace rankfold {

inline constexpr int64_t kIgnoreIndex = -100;  // label of a position without loss (as in PyTorch)

// T tokens in B sequences. Tensors are on the CPU; the model copies them to its device.
struct Batch {
  at::Tensor tokens;             // [T] int64
  at::Tensor labels;             // [T] int64: target of position t (already shifted), or kIgnoreIndex
  at::Tensor positions;          // [T] int64: 0, 1, ... within each sequence
  std::vector<int64_t> offsets;  // [B + 1]: sequence b is the tokens offsets[b] ... offsets[b + 1] - 1
  std::vector<int64_t> samples;  // [B]: index of each row in its Dataset
  int64_t first_row = 0;         // index of the first row within the accumulation window; used by dropout
  int64_t step = 0;              // optimizer step of this batch; used by dropout

  int64_t rows() const { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t token_count() const { return offsets.empty() ? 0 : offsets.back(); }
  int64_t label_count() const;  // labels other than kIgnoreIndex
};

// Input of make_batch(): one sequence, not owned. `labels` follow Hugging Face's convention: labels[i] belongs to
// input_ids[i], and kIgnoreIndex marks a position without loss.
struct Sequence {
  const std::vector<int32_t>* input_ids = nullptr;
  const std::vector<int32_t>* labels = nullptr;  // null: no loss on this sequence
};
// Concatenates sequences and shifts their labels by one. Throws std::invalid_argument for no rows, an empty row, or
// labels of another length.
Batch make_batch(const std::vector<Sequence>& rows);

}  // namespace rankfold
