#include "eval/terms.h"

#include "core/check.h"
#include "core/file.h"
#include "core/json.h"
#include "core/utf8.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <set>
#include <sstream>

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

std::vector<std::string> read_terms(const std::filesystem::path& file) {
  constexpr uint64_t kLargest = 16 << 20;
  const std::string text = read_text(file, kLargest);
  check_utf8(text, file.string());
  std::vector<std::string> terms;
  std::set<std::string> seen;
  std::istringstream lines(text.starts_with(kByteOrderMark) ? text.substr(kByteOrderMark.size()) : text);
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find_first_not_of(" \t\r"), last = line.find_last_not_of(" \t\r");
    if (first == std::string::npos) continue;
    std::string term = line.substr(first, last + 1 - first);
    if (seen.insert(lower(term)).second) terms.push_back(std::move(term));
  }
  if (terms.empty()) fail(file.string(), ": expected one term per line, got an empty file");
  return terms;
}

std::vector<std::string> terms_wanted(const std::string& question, const std::string& reference,
                                      const std::vector<std::string>& list) {
  std::vector<std::string> wanted;
  const std::string asked = lower(question);
  for (std::string& term : terms_found(reference, list))
    if (asked.find(lower(term)) == std::string::npos) wanted.push_back(std::move(term));
  std::vector<std::string> whole;
  for (const std::string& term : wanted)
    if (std::none_of(wanted.begin(), wanted.end(), [&term](const std::string& other) {
          return other.size() > term.size() && lower(other).find(lower(term)) != std::string::npos;
        }))
      whole.push_back(term);
  return whole;
}

}  // namespace rankfold
