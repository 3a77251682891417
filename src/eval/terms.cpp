#include "eval/terms.h"

#include "core/check.h"
#include "core/json.h"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace rankfold {
namespace {

std::string lower(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

}  // namespace

std::vector<std::string> row_terms(const nlohmann::json& row, const std::string& field, const std::string& place) {
  if (!row.contains(field)) {
    std::vector<std::string> keys;
    for (const auto& [key, value] : row.items()) keys.push_back(key);
    fail(place, ": no field '", field, "'", did_you_mean(nearest(field, keys)));
  }
  const nlohmann::json& value = row[field];
  const nlohmann::json list = value.is_string() ? nlohmann::json::array({value}) : value;
  const bool whole = list.is_array() && !list.empty() && std::all_of(list.begin(), list.end(), [](const auto& term) {
                       return term.is_string() && !term.template get_ref<const std::string&>().empty();
                     });
  if (!whole) fail(place, ": ", field, ": expected a text or a list of texts, got ", brief(value));
  return list.get<std::vector<std::string>>();
}

std::vector<std::string> terms_found(const std::string& text, const std::vector<std::string>& terms) {
  std::vector<std::string> found;
  const std::string wide = lower(text);
  std::copy_if(terms.begin(), terms.end(), std::back_inserter(found),
               [&wide](const std::string& term) { return wide.find(lower(term)) != std::string::npos; });
  return found;
}

}  // namespace rankfold
