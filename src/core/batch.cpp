#include "rankfold/batch.h"

#include "core/check.h"

#include <ATen/ops/empty.h>

#include <numeric>

namespace rankfold {

int64_t Batch::label_count() const { return labels.defined() ? labels.ne(kIgnoreIndex).sum().item<int64_t>() : 0; }

Batch make_batch(const std::vector<Sequence>& rows) {
  RANKFOLD_CHECK(!rows.empty(), "make_batch: no rows");
  Batch batch;
  batch.offsets.push_back(0);
  for (const Sequence& row : rows) {
    RANKFOLD_CHECK(row.input_ids && !row.input_ids->empty(), "make_batch: row ", batch.rows(), " is empty");
    RANKFOLD_CHECK(!row.labels || row.labels->size() == row.input_ids->size(), "make_batch: row ", batch.rows(),
                   " has ", row.input_ids->size(), " ids and ", row.labels->size(), " labels");
    batch.offsets.push_back(batch.offsets.back() + static_cast<int64_t>(row.input_ids->size()));
  }
  batch.samples.resize(rows.size());
  std::iota(batch.samples.begin(), batch.samples.end(), int64_t{0});

  for (at::Tensor* tensor : {&batch.tokens, &batch.labels, &batch.positions})
    *tensor = at::empty({batch.token_count()}, at::kLong);
  int64_t* token = batch.tokens.mutable_data_ptr<int64_t>();
  int64_t* label = batch.labels.mutable_data_ptr<int64_t>();
  int64_t* position = batch.positions.mutable_data_ptr<int64_t>();
  for (const Sequence& row : rows) {
    const size_t length = row.input_ids->size();
    for (size_t t = 0; t < length; ++t) {
      *token++ = (*row.input_ids)[t];
      *label++ = row.labels && t + 1 < length ? (*row.labels)[t + 1] : kIgnoreIndex;
      *position++ = static_cast<int64_t>(t);
    }
  }
  return batch;
}

}  // namespace rankfold
