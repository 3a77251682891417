#include "model/config_reader.h"

#include <algorithm>
#include <sstream>
#include <vector>

namespace rankfold {

void note_unknown_keys(const ConfigReader& reader, const char* without_effect, ModelConfig& config) {
  constexpr size_t kNamed = 12;
  std::set<std::string> known = reader.asked();
  std::istringstream words(without_effect);
  for (std::string word; words >> word;) known.insert(word);
  std::vector<std::string> unknown;
  for (const auto& [key, value] : reader.object().items())
    if (!known.contains(key) && !value.is_null() && value != false) unknown.push_back(key);
  if (unknown.empty()) return;
  std::string names;
  for (size_t i = 0; i < std::min(kNamed, unknown.size()); ++i) names += (i ? ", " : "") + unknown[i];
  if (unknown.size() > kNamed) names += join(" and ", unknown.size() - kNamed, " more");
  config.notes.push_back(one_line(join(reader.source(), ": not used: ", names)));
}

}  // namespace rankfold
