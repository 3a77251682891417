// Plans a run before it starts: data, steps, memory and time, for the configured method (LoRA or full tuning) and for
// the other. Writes no files.
#pragma once

#include "rankfold/adapter.h"
#include "rankfold/causal_lm.h"
#include "rankfold/config.h"
#include "rankfold/dataset.h"
#include "rankfold/error.h"
#include "train/memory_plan.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace rankfold {

struct LengthBin {
  int64_t first = 0, last = 0;  // tokens
  int64_t rows = 0;
};

struct DataPlan {
  int64_t rows = 0, held_out_rows = 0;
  int64_t tokens = 0, learnt_tokens = 0;  // of one epoch
  int64_t shortest = 0, longest = 0;      // as the rows are trained on
  int64_t duplicates = 0;                 // rows with the ids and labels of an earlier one
  std::vector<LengthBin> lengths = {};
};

// Seconds.
struct TimePlan {
  double step = 0;  // on average
  double training = 0, evaluation = 0, saving = 0, start = 0;
  double tokens_per_second = 0;  // while it trains
  int64_t measured = 0;          // micro-batches; 0: the time is an estimate
  std::string basis;             // how the times were found, in words
  double total() const { return start + training + evaluation + saving; }
};

struct MethodPlan {
  Finetuning method = Finetuning::kLora;
  int64_t trained = 0;      // parameters
  int64_t all_linear = 0;   // LoRA: as many on all linear layers at the same ranks
  StringList targets = {};  // LoRA: kinds of modules, by the last part of their names
  MemoryPlan memory = {};
  std::string remedy = {};  // if it does not fit: what would make it fit
  std::optional<TimePlan> time = {};
  std::string no_time = {};  // why there is none
};

struct RunPlan {
  DataPlan data;
  int64_t steps = 0, steps_per_epoch = 0, rows_per_step = 0;
  int64_t evaluations = 0;
  int64_t saves = 0;                // as if every evaluation found a new best, which is saved at once
  std::vector<MethodPlan> methods;  // the configured one, then the other
};

struct PlanRequest {
  const RunConfig& config;
  Dataset rows;
  std::optional<Dataset> held_out = {};
  double start_seconds = 0;      // from the program's start to here; a run takes them too
  double measuring_seconds = 6;  // for each method, where steps are fast
  Stop stop = {};
  // Called with the model and adapter of the configured method, if it fits.
  std::function<void(const CausalLM&, const Adapter&)> on_configured = {};
};

// Loads the model of config.model_name_or_path once for each method that is measured. Throws UserError as a run does,
// but not for a method that does not fit in memory: that gets a remedy. Throws Stopped.
RunPlan make_plan(const PlanRequest& request);

// The number of saves of a run of `steps` steps, if each evaluation is saved too. Evaluations are `interval` steps
// apart; 0: there are none. The result counts as one save.
int64_t count_saves(int64_t save_steps, int64_t interval, int64_t steps);

}  // namespace rankfold
