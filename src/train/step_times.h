// How long steps take, from a few micro-batches of a run's own rows that are computed for it. Nothing is written, and
// the adapter's values stay as they are.
#pragma once

#include "rankfold/adapter.h"
#include "rankfold/causal_lm.h"
#include "rankfold/config.h"
#include "rankfold/dataset.h"
#include "rankfold/error.h"

#include <cstdint>
#include <utility>
#include <vector>

namespace rankfold {

// Tokens of each row of a data set, and how many of them are learnt.
struct RowSizes {
  std::vector<int32_t> tokens, learnt;
};

// Rows that are computed together.
struct MicroBatch {
  std::vector<int64_t> rows;
  double work = 0;  // what there is to compute, in units that are the same for all
};

// Those of the first epoch in the order of the run; of held-out rows, in the order of the file.
std::vector<MicroBatch> micro_batches(const RowSizes& sizes, const ModelConfig& model, int64_t rows_together,
                                      const std::vector<int64_t>& order);

// Seconds by work: of what was not measured, by interpolation between what was.
class TimesByWork {
 public:
  void add(double work, double seconds);
  double seconds(double work) const;  // at least one must be added
  double mean(const std::vector<MicroBatch>& batches) const;

 private:
  std::vector<std::pair<double, double>> points_;  // by rising work
};

struct StepTimes {
  TimesByWork training;   // forward and backward pass of a micro-batch
  TimesByWork forward;    // without gradients, as in an evaluation
  double update = 0;      // clipping, AdamW
  double first_time = 0;  // what the first batch of a size takes longer: libraries prepare for it
  int64_t measured = 0;   // micro-batches
  double spent = 0;       // seconds that measuring took
};

// The micro-batches nearest to seven quantiles of work, and the largest, over and over for at most about `seconds`; of
// slow ones at least a typical one and the largest, once. `batches` must not be empty; `level`: what is computed again.
// Throws Stopped where `stop` says so before a micro-batch.
StepTimes measure_steps(const CausalLM& model, const Adapter& adapter, const Dataset& dataset,
                        const TrainConfig& config, Checkpointing level, const std::vector<MicroBatch>& batches,
                        double seconds, const Stop& stop);

}  // namespace rankfold
