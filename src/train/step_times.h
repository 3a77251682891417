// Measures how long steps take, on a few micro-batches of a run's own rows. It writes nothing and does not change the
// adapter's values.
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
  double work = 0;  // amount of computation, in the same arbitrary unit for all
};

// Groups rows, in the given order, into micro-batches of `rows_together`.
std::vector<MicroBatch> micro_batches(const RowSizes& sizes, const ModelConfig& model, int64_t rows_together,
                                      const std::vector<int64_t>& order);

// Seconds as a function of work, interpolated between measurements.
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
  double first_time = 0;  // extra time of the first batch of a size, in which libraries prepare for it
  int64_t measured = 0;   // micro-batches
  double spent = 0;       // seconds that measuring took
};

// Measures the micro-batches nearest to seven quantiles of work, and the largest, repeatedly, for at most about
// `seconds`. If they are slow, it measures at least a typical one and the largest once. `batches` must not be empty.
// Throws Stopped if `stop` says so before a micro-batch.
StepTimes measure_steps(const CausalLM& model, const Adapter& adapter, const Dataset& dataset,
                        const TrainConfig& config, Checkpointing level, const std::vector<MicroBatch>& batches,
                        double seconds, const Stop& stop);

}  // namespace rankfold
