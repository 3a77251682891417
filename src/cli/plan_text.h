// A plan for people and as JSON (docs/formats.md).
#pragma once

#include "rankfold/config.h"
#include "rankfold/dataset.h"
#include "train/advice.h"
#include "train/plan.h"

#include <nlohmann/json_fwd.hpp>

#include <iosfwd>

namespace rankfold {

// Lines of at most 100 columns.
void print_plan(std::ostream& out, const RunPlan& plan, const Advice& advice, const DatasetReport& report);
nlohmann::ordered_json plan_json(const RunPlan& plan, const Advice& advice, const DatasetReport& report);

}  // namespace rankfold
