// How many of the words that an answer must hold stand in it.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <string>
#include <vector>

namespace rankfold {

// The row's terms: a text or a list of texts, none of them empty. UserError that begins with `place`
// otherwise.
std::vector<std::string> row_terms(const nlohmann::json& row, const std::string& field, const std::string& place);

// The terms that stand in the text; ASCII letters in either case.
std::vector<std::string> terms_found(const std::string& text, const std::vector<std::string>& terms);

}  // namespace rankfold
