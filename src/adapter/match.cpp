#include "adapter/match.h"

#include "core/check.h"
#include "core/config.h"
#include "core/json.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <functional>
#include <set>

namespace rankfold {
namespace {

std::string last_part(const std::string& name) { return name.substr(name.rfind('.') + 1); }

// target_modules or exclude_modules: an expression for the whole name, or a list of names and of what follows a dot in
// them.
class Names {
 public:
  Names(const std::string& key, const ModuleNames& names) {
    if (const auto* pattern = std::get_if<std::string>(&names)) {
      if (!pattern->empty()) regex_.emplace(key, *pattern);
    } else {
      for (const std::string& entry : std::get<StringList>(names)) list_.emplace(entry, false);
    }
  }
  bool match(const std::string& name) {
    if (regex_) return regex_->match(name);
    bool found = false;
    for (size_t begin = 0;; ++begin) {
      if (const auto entry = list_.find(std::string_view(name).substr(begin)); entry != list_.end())
        found = entry->second = true;
      begin = name.find('.', begin);
      if (begin == std::string::npos) return found;
    }
  }
  bool lists(const std::string& name) const { return list_.contains(name); }
  // An entry of the list that no name so far has matched; null: none.
  const std::string* unmatched() const {
    for (const auto& [entry, has_matched] : list_)
      if (!has_matched) return &entry;
    return nullptr;
  }

 private:
  std::map<std::string, bool, std::less<>> list_;  // whether it has matched
  std::optional<Regex> regex_;
};

// The layer is the first number between dots that has two parts before it: model.layers.3.mlp.down_proj -> 3.
std::optional<int64_t> layer_of(const std::string& name) {
  size_t begin = 0;
  for (int part = 0;; ++part) {
    const size_t end = name.find('.', begin);
    if (end == std::string::npos) return std::nullopt;
    const bool digits =
        end > begin && end - begin < 10 &&
        std::all_of(name.begin() + begin, name.begin() + end, [](unsigned char c) { return std::isdigit(c); });
    if (part >= 2 && digits) return std::stoll(name.substr(begin, end - begin));
    begin = end + 1;
  }
}

// PEFT looks at the layer only where the name is not an entry of the list in full.
bool is_in_layers(const std::set<int64_t>& layers, const Names& targets, const std::string& name) {
  if (layers.empty() || targets.lists(name)) return true;
  const std::optional<int64_t> layer = layer_of(name);
  return layer && layers.contains(*layer);
}

std::string listed(const std::vector<LinearModule>& linears) {
  std::string text;
  for (const std::string& name : short_names(linears)) text += (text.empty() ? "" : ", ") + name;
  return text;
}

// For whoever writes an expression for the whole name: those of the first layer.
std::string full_names(const std::vector<LinearModule>& linears) {
  std::string text;
  for (const LinearModule& module : linears)
    if (layer_of(module.name) == layer_of(linears.front().name)) text += (text.empty() ? "" : ", ") + module.name;
  return text;
}

void check_layers(const std::set<int64_t>& layers, const std::vector<LinearModule>& linears) {
  std::set<int64_t> there;
  for (const LinearModule& module : linears)
    if (const std::optional<int64_t> layer = layer_of(module.name)) there.insert(*layer);
  for (const int64_t layer : layers)
    if (!there.contains(layer))
      fail("layers_to_transform: expected indices of layers, ",
           there.empty() ? "of which this model has none" : join("the last of which is ", *there.rbegin()), ", got ",
           layer);
}

void check_entries(Names& targets, const std::vector<LinearModule>& linears) {
  for (const LinearModule& module : linears) targets.match(module.name);
  if (const std::string* entry = targets.unmatched())
    fail("target_modules: '", *entry, "' matches no linear layer of this model, whose names are ", listed(linears),
         did_you_mean(nearest(*entry, short_names(linears))));
}

// A pattern without any operator but the dot: PEFT's initialisers write one for each module, and a comparison is cheaper.
bool is_plain(const std::string& pattern) {
  return std::all_of(pattern.begin(), pattern.end(),
                     [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '.'; });
}
bool ends_in_plain(const std::string& name, const std::string& pattern) {
  const size_t begin = name.size() - pattern.size();  // only looked at where the name is as long
  return name.size() >= pattern.size() && (begin == 0 || name[begin - 1] == '.') &&
         std::equal(pattern.begin(), pattern.end(), name.begin() + begin,
                    [](char p, char c) { return p == c || (p == '.' && c != '\n'); });
}

}  // namespace

template <class T>
ByName<T>::ByName(const std::string& key, const std::map<std::string, T>& patterns, T otherwise)
    : key_(key), otherwise_(otherwise) {
  constexpr size_t kMostExpressions = 1000;  // each may take 64 KiB
  size_t expressions = 0;
  const auto patience = std::make_shared<Regex::Patience>();
  for (const auto& [pattern, value] : patterns) {
    Entry& entry = entries_.emplace_back(Entry{pattern, std::nullopt, value});
    if (is_plain(pattern)) continue;
    if (++expressions > kMostExpressions) fail(key, ": expected at most ", kMostExpressions, " regular expressions");
    entry.regex.emplace(key, pattern, patience);
  }
}

template <class T>
T ByName<T>::at(const std::string& name) const {
  constexpr uint64_t kMostLooks =
      100'000'000;  // a third of a second; 1,000 modules that each have an entry take a million
  looks_ += entries_.size();
  if (looks_ > kMostLooks) fail(key_, ": ", entries_.size(), " entries are too many for this model");
  for (const Entry& entry : entries_)
    if (entry.regex ? entry.regex->match_after_dot(name) : ends_in_plain(name, entry.pattern)) return entry.value;
  return otherwise_;
}

ModuleRanks::ModuleRanks(const LoraConfig& config)
    : r_("rank_pattern", config.rank_pattern, config.r),
      alpha_("alpha_pattern", config.alpha_pattern, config.lora_alpha),
      use_rslora_(config.use_rslora) {}

ModuleMatch ModuleRanks::match(const LinearModule& module) const {
  ModuleMatch match{.module = module, .r = r_.at(module.name), .alpha = alpha_.at(module.name)};
  const double rank = static_cast<double>(match.r);
  match.scale = match.alpha / (use_rslora_ ? std::sqrt(rank) : rank);
  return match;
}

std::vector<ModuleMatch> match_modules(const LoraConfig& config, const std::vector<LinearModule>& linears) {
  const auto* text = std::get_if<std::string>(&config.target_modules);
  if (text ? text->empty() : std::get<StringList>(config.target_modules).empty())
    fail("target_modules: expected names of linear layers, got none; this model's are ", listed(linears));
  if (text && !config.layers_to_transform.empty())
    fail("layers_to_transform: needs a list in target_modules, got the string '", *text, "'");
  const std::set<int64_t> layers(config.layers_to_transform.begin(), config.layers_to_transform.end());
  const bool all = text && is_all_linear(*text);
  Names wanted("target_modules", all ? ModuleNames(StringList{}) : config.target_modules);
  Names excluded("exclude_modules", config.exclude_modules);
  if (!text) check_entries(wanted, linears);
  check_layers(layers, linears);
  const ModuleRanks ranks(config);

  std::vector<ModuleMatch> matches;
  for (const LinearModule& module : linears) {
    const bool is_wanted =
        all ? !module.is_head : wanted.match(module.name) && is_in_layers(layers, wanted, module.name);
    if (is_wanted && !excluded.match(module.name)) matches.push_back(ranks.match(module));
  }
  if (!matches.empty()) return matches;
  if (text && !all)
    fail("target_modules: '", *text, "' matches no linear layer (", listed(linears),
         "); a string is a regular expression for the whole name, such as ", full_names(linears),
         ": give a list for names");
  fail("target_modules: nothing is left after exclude_modules and layers_to_transform; this model's linear layers are ",
       listed(linears));
}

std::vector<std::string> short_names(const std::vector<LinearModule>& linears) {
  std::vector<std::string> names;
  std::set<std::string> seen;
  for (const LinearModule& module : linears)
    if (const std::string name = last_part(module.name); seen.insert(name).second) names.push_back(name);
  return names;
}

}  // namespace rankfold
