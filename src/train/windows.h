// Which rows each optimizer step trains on: a function of (seed, step) alone, whatever was computed before.
#pragma once

#include "rankfold/batch.h"
#include "rankfold/config.h"
#include "rankfold/dataset.h"
#include "rankfold/error.h"
#include "train/memory_plan.h"
#include "train/schedule.h"

#include <cstdint>
#include <vector>

namespace rankfold {

// The micro-batches of one optimizer step.
struct Window {
  std::vector<Batch> batches;
  int64_t labels = 0, tokens = 0;
};

class Windows {
 public:
  Windows(Dataset dataset, const TrainConfig& config);

  Window at(int64_t step);
  const StepPlan& plan() const { return plan_; }
  const Dataset& dataset() const { return dataset_; }

  // The largest micro-batch of the run. For a run over very many rows in all, it is the batch of the longest rows
  // instead.
  BatchSize largest_batch(const Stop& stop) const;

 private:
  std::vector<int64_t> order_of(int64_t epoch) const;
  BatchSize batch_of_longest_rows() const;

  Dataset dataset_;
  StepPlan plan_;
  uint64_t seed_;
  bool shuffle_;
  int64_t rows_, rows_of_a_step_;
  std::vector<int64_t> order_;  // of the rows in epoch order_epoch_
  int64_t order_epoch_ = -1;
};

}  // namespace rankfold
