// What a run will take, before it takes it.
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

// Bytes by purpose. On a CPU `libraries` is what the process holds besides, data set included; on a device an allowance.
struct MemoryPlan {
  Checkpointing checkpointing = Checkpointing::none;
  BatchSize batch;
  int64_t mapped = 0, copied = 0;  // weights: pages of the model's files, or memory of our own
  int64_t adapter = 0;             // values and gradients
  int64_t optimizer = 0;           // both moments
  int64_t kept = 0;                // for the backward pass of one micro-batch
  int64_t temporary = 0;           // the most that lives beside it for a moment
  int64_t libraries = 0;
  int64_t limit = 0;  // --memory_budget, or what is there; 0: the system does not say

  bool fits() const { return limit == 0 || total() <= limit; }
  int64_t total() const { return mapped + copied + adapter + optimizer + kept + temporary + libraries; }
  std::string table() const;  // for people
};

// The plan at config.gradient_checkpointing; for auto, at the least recomputation that fits. To be asked when model, adapter
// and optimizer are there. Throws UserError with the numbers where nothing that was asked for fits.
MemoryPlan plan_memory(Model& model, const Adapter& adapter, const TrainConfig& config, const BatchSize& batch);

// The plans at all levels of gradient_checkpointing, the least recomputation first; none is refused.
std::vector<MemoryPlan> plan_levels(Model& model, const Adapter& adapter, const TrainConfig& config,
                                    const BatchSize& batch);
// The same for full tuning of a model on which `adapter` is now: nothing of it is made for that.
std::vector<MemoryPlan> plan_levels_of_full(Model& model, const Adapter& adapter, const TrainConfig& config,
                                            const BatchSize& batch);
// The first that fits of those that config.gradient_checkpointing allows, else the last of those.
const MemoryPlan& chosen_plan(const std::vector<MemoryPlan>& levels, const TrainConfig& config);

}  // namespace rankfold
