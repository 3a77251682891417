// Evaluation while a run trains: when it is due, the metrics and sample answers of the held-out rows, and which step is
// the best so far. It writes no files; train/run_folder.h does.
#pragma once

#include "rankfold/causal_lm.h"
#include "rankfold/config.h"
#include "rankfold/dataset.h"
#include "rankfold/error.h"
#include "rankfold/trainer.h"
#include "train/schedule.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace rankfold {

// The best step so far, as a checkpoint keeps it.
struct Best {
  std::string rows = {};    // checksum of the held-out rows; empty: nothing was evaluated
  std::string metric = {};  // the metric that is compared: "eval_loss"
  std::optional<double> value = {};
  int64_t step = 0;          // 0: none, and no value
  int64_t without_gain = 0;  // evaluations since the last gain of more than early_stopping_threshold
};
std::string text_of(const Best& best);  // "best eval_loss 1.2500 at step 40"; empty where there is none

class Evaluation {
 public:
  // `config` must outlive it. `most_tokens`: the limit of a batch, unless a single row has more. With the tokens of the
  // run's largest micro-batch, evaluation stays within the memory plan. Throws UserError if the settings need held-out
  // rows but there are none, or need an evaluation although eval_strategy is no.
  Evaluation(std::optional<Dataset> rows, const TrainConfig& config, const StepPlan& plan, int64_t most_tokens);

  bool is_due(int64_t step) const;  // after this step; 0: before the first
  int64_t steps_between() const;    // steps between evaluations with eval_strategy steps, else 0
  int64_t interval() const;         // steps between evaluations, also with eval_strategy epoch; 0: there is none
  int64_t count() const;            // evaluations of a run that goes to its last step
  int64_t rows_per_batch() const;

  // eval_loss, eval_runtime (seconds), eval_samples_per_second, eval_steps_per_second, as transformers names them.
  // Throws Error(kDiverged) where the loss is not finite, Stopped where `stop` says so before a batch.
  std::vector<Metric> metrics(const CausalLM& model, const Stop& stop) const;
  // Answers to the first rows that have a prompt, greedily. None where the model has no tokenizer. Throws Stopped.
  std::vector<SampleAnswer> answers(const CausalLM& model, int64_t step, const Stop& stop) const;

  // Resets a best step that was found on other rows or by another metric; returns whether there was one.
  bool begin(Best& best) const;
  // Updates the best step from an evaluation's log rows; returns whether this step is the best so far. A step whose
  // metric is not finite never is. Throws UserError if no row has the metric.
  bool update(Best& best, int64_t step, const std::vector<LogRow>& rows) const;
  bool ends_run(const Best& best) const;  // early stopping: early_stopping_patience is used up

 private:
  std::optional<Dataset> rows_;
  const TrainConfig& config_;
  StepPlan plan_;
  EvalStrategy strategy_ = EvalStrategy::kNo;
  int64_t most_tokens_;
};

std::string metric_name(const TrainConfig& config);  // metric_for_best_model with its "eval_"

}  // namespace rankfold
