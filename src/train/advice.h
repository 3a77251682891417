// The advice in a plan: a method for this amount of data, and published findings compared with the settings.
#pragma once

#include "rankfold/config.h"
#include "train/plan.h"

#include <string>
#include <vector>

namespace rankfold {

struct Finding {
  std::string topic = {};    // a setting, or what it is about
  std::string finding = {};  // what was found by others
  std::string yours = {};    // what it means for this run
};

struct Advice {
  std::string choice;  // "full", "lora" or "retrieval and prompts"
  std::string reason;
  std::string yours;              // whether the run is of that method
  std::vector<Finding> findings;  // "LoRA Without Regret" (Thinking Machines Lab, 2025)
};

Advice advise(const RunPlan& plan, const RunConfig& config);

}  // namespace rankfold
