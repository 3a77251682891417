// A comparison as text, as JSON and as a page.
#pragma once

#include "eval/compare.h"
#include "report/html.h"

#include <nlohmann/json_fwd.hpp>

#include <string>
#include <vector>

namespace rankfold {

// What was compared, as the user wrote it. All but base and held_out may be empty.
struct ComparedOn {
  std::string base = {}, held_out = {}, train = {};
  std::string terms = {}, what_terms = {};  // as they were asked for, and what they are
};

nlohmann::ordered_json comparison_json(const Comparison& comparison, const ComparedOn& on);
// The tables, as wide as a screen; then the pairs and the notes, one line each.
std::string comparison_text(const Comparison& comparison);
// One HTML page that loads nothing from elsewhere.
std::string comparison_page(const Comparison& comparison, const ComparedOn& on);

// The last part of each folder's name if all of these differ, else the names as they are.
std::vector<std::string> short_names(const std::vector<ComparedModel>& models);

}  // namespace rankfold
