// Predicts the memory of a run before it starts.
#pragma once

#include "model/model.h"
#include "rankfold/adapter.h"
#include "rankfold/config.h"

#include <cstdint>
#include <string>
#include <vector>

namespace rankfold {

// The largest micro-batch of a run.
struct BatchSize {
  int64_t sizes = 1;  // how many numbers of tokens its products have in all (ops/rowwise.h)
  int64_t rows = 0;
  int64_t tokens = 0;
  int64_t longest = 0;  // tokens of the longest row of any
};

// Bytes by purpose. `libraries`: on a CPU all other memory of the process, with the data set; on a device an allowance.
struct MemoryPlan {
  Checkpointing checkpointing = Checkpointing::none;
  BatchSize batch;
  int64_t mapped = 0, copied = 0;  // weights: pages of the mapped files; allocated memory
  int64_t adapter = 0;             // values and gradients
  int64_t optimizer = 0;           // both moments
  int64_t kept = 0;                // saved for the backward pass of one micro-batch
  int64_t temporary = 0;           // peak of the temporary tensors besides
  int64_t libraries = 0;
  int64_t limit = 0;  // --memory_budget, or the available memory; 0: not known

  bool fits() const { return limit == 0 || total() <= limit; }
  int64_t total() const { return mapped + copied + adapter + optimizer + kept + temporary + libraries; }
  std::string table() const;  // for people
};

// The plan for config.gradient_checkpointing; for auto, with the least recomputation that fits. Call it after model,
// adapter and optimizer were created. Throws UserError with the numbers if no allowed plan fits.
MemoryPlan plan_memory(Model& model, const Adapter& adapter, const TrainConfig& config, const BatchSize& batch);

// The plans for all levels of gradient_checkpointing, the least recomputation first, whether they fit or not.
std::vector<MemoryPlan> plan_levels(Model& model, const Adapter& adapter, const TrainConfig& config,
                                    const BatchSize& batch);
// The same for full tuning of a model to which `adapter` is attached. It allocates nothing for full tuning.
std::vector<MemoryPlan> plan_levels_of_full(Model& model, const Adapter& adapter, const TrainConfig& config,
                                            const BatchSize& batch);
// The first plan that fits, of those that config.gradient_checkpointing allows; if none fits, the last of those.
const MemoryPlan& chosen_plan(const std::vector<MemoryPlan>& levels, const TrainConfig& config);

}  // namespace rankfold
