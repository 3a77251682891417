// Rows of a run's log, and their format in files: step, epoch, then the metrics by name.
#pragma once

#include "rankfold/trainer.h"

#include <nlohmann/json_fwd.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

bool is_of_training(std::string_view metric);  // one of LogRow's members
bool is_of_evaluation(const LogRow& row);      // has a metric whose name begins with eval_

// Orders the metrics: those of training as in LogRow, then the others by name. Fills the members that they belong to.
LogRow make_row(int64_t step, double epoch, std::vector<Metric> metrics);

LogRow read_row(const nlohmann::json& row);  // throws nlohmann's exceptions if it is not a row
nlohmann::ordered_json row_json(const LogRow& row);
// Without the metrics that depend on the machine: equal runs give equal rows.
nlohmann::ordered_json repeatable_row_json(const LogRow& row);
std::string log_line(const LogRow& row);
std::string log_lines(const std::vector<LogRow>& rows);

}  // namespace rankfold
