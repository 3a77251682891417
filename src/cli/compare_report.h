// A comparison as text, as JSON and as a page.
#pragma once

#include "eval/compare.h"
#include "report/html.h"

#include <nlohmann/json_fwd.hpp>

#include <string>
#include <vector>

namespace rankfold {

// What was compared, in a person's words. All but the first two may be empty.
struct ComparedOn {
  std::string base = {}, held_out = {}, train = {};
  std::string terms = {}, what_terms = {};  // as they were asked for, and what they are
};

nlohmann::ordered_json comparison_json(const Comparison& comparison, const ComparedOn& on);
// The tables of one screen's width, the pairs and the notes, each a line.
std::string comparison_text(const Comparison& comparison);
// One page without anything from elsewhere.
std::string comparison_page(const Comparison& comparison, const ComparedOn& on);

// The last parts of folders' names, of all where those differ, else the names as they are.
std::vector<std::string> short_names(const std::vector<ComparedModel>& models);

}  // namespace rankfold
