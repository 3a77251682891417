#include "adapter/match.h"

#include "core/check.h"
#include "core/config.h"
#include "core/json.h"
#include "model/architecture.h"
#include "model/load_network.h"
#include "model/model.h"
#include "model/tensor_list.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <functional>
#include <set>

namespace rankfold {
namespace {

constexpr std::string_view kTargets = "target_modules";

std::string last_part(const std::string& name) { return name.substr(name.rfind('.') + 1); }
std::string without_last_part(const std::string& name) { return name.substr(0, name.rfind('.')); }

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
  // The entries of the list that no name so far has matched.
  StringList unmatched() const {
    StringList entries;
    for (const auto& [entry, has_matched] : list_)
      if (!has_matched) entries.push_back(entry);
    return entries;
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

// Modules of one role, which families call differently; some families have one module for several roles.
struct Role {
  std::string_view part;  // as a sentence calls it
  std::vector<std::string_view> names, packed;
};
constexpr std::string_view kOfQkv = "q, k and v", kOfGateUp = "gate and up";

const std::vector<Role>& roles() {
  static const std::vector<std::string_view> qkv = {"W_pack", "qkv_proj", "query_key_value", "wqkv", "Wqkv",
                                                    "c_attn", "qkv"};
  static const std::vector<Role> rows{{kOfQkv, {"q_proj", "query", "wq"}, qkv},
                                      {kOfQkv, {"k_proj", "key", "wk"}, qkv},
                                      {kOfQkv, {"v_proj", "value", "wv"}, qkv},
                                      {"", {"o_proj", "wo"}, {}},
                                      {kOfGateUp, {"gate_proj", "w1"}, {"gate_up_proj"}},
                                      {kOfGateUp, {"up_proj", "w3"}, {"gate_up_proj"}},
                                      {"", {"down_proj", "w2"}, {}}};
  return rows;
}

bool has(const std::vector<std::string_view>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Of a name that another family has: what this model has in its place, empty where it has nothing. Unset for a name of
// no family that we know, which may be misspelt. The most similar name would be a module of another role: q_proj and
// o_proj differ by one letter.
template <class List>
std::optional<std::string> counterpart(const std::string& entry, const List& names) {
  const std::string wanted = last_part(entry);
  std::vector<std::string> found;
  std::string_view packs;
  bool is_known = false;
  for (const Role& role : roles()) {
    const bool is_part = has(role.names, wanted), is_packed = has(role.packed, wanted);
    if (!is_part && !is_packed) continue;
    is_known = true;
    for (const std::string& name : names) {
      const bool is_pack = has(role.packed, name);
      if (!is_pack && !has(role.names, name)) continue;
      if (is_pack && is_part) packs = role.part;
      if (std::find(found.begin(), found.end(), name) == found.end()) found.push_back(name);
    }
  }
  if (!is_known) return std::nullopt;
  std::string text;
  for (size_t i = 0; i < found.size(); ++i) text += join(i == 0 ? "" : i + 1 < found.size() ? ", " : " and ", found[i]);
  if (text.empty()) return text;
  return join(" (this model has ", text, packs.empty() ? "" : join(", which holds ", packs), ")");
}

// What may have been meant by an entry that matches nothing. Entries are the end of a name as the model has it.
template <class List>
std::string hint(const std::string& entry, const List& names) {
  constexpr std::string_view kPrefix = kAdapterPrefix;
  if (entry.starts_with('^') || entry.ends_with('$'))
    return " (an entry stands for a whole name, or for all that follows a dot in it: leave out ^ and $)";
  if (entry.starts_with(kPrefix)) return join(" (leave out ", kPrefix, ", which only the adapter's file has)");
  if (const std::optional<std::string> other = counterpart(entry, names)) return *other;
  return did_you_mean(nearest(entry, names));
}

// Of target_modules, where an entry may also be meant for the word that stands for all.
std::string hint_on_all_linear(const std::string& entry) {
  constexpr std::string_view kAll = "all-linear";
  if (is_all_linear(entry)) return join(" ('", entry, "' stands for all layers only as a string, not in a list)");
  if (entry.size() > kAll.size() + 2) return "";
  std::string lower = entry;
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return edit_distance(lower, kAll) <= 2 ? did_you_mean(std::string(kAll)) : "";
}

// PEFT adapts no module that lies in one of modules_to_save, whose entries stand for whole parts of a name here.
bool is_in_saved_module(const StringList& saved, const std::string& module) {
  return std::any_of(saved.begin(), saved.end(), [&](const std::string& entry) {
    return ("." + module + ".").find("." + entry + ".") != std::string::npos;
  });
}

StringList unmatched_by(Names& entries, const std::vector<LinearModule>& linears) {
  for (const LinearModule& module : linears) entries.match(module.name);
  return entries.unmatched();
}

void check_entries(std::string_view key, Names& entries, const std::vector<LinearModule>& linears) {
  const StringList unmatched = unmatched_by(entries, linears);
  if (unmatched.empty()) return;
  const std::string& entry = unmatched.front();
  std::string meant = key == kTargets ? hint_on_all_linear(entry) : "";
  if (meant.empty()) meant = hint(entry, short_names(linears));
  fail(key, ": '", entry, "' matches no linear layer of this model, whose names are ", listed(linears), meant);
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
ByName<T>::ByName(const std::string& key, const OrderedMap<T>& patterns, T otherwise)
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
bool ByName<T>::Entry::matches(const std::string& name) const {
  return regex ? regex->match_after_dot(name) : ends_in_plain(name, pattern);
}

template <class T>
const typename ByName<T>::Entry* ByName<T>::find(const std::string& name) const {
  constexpr uint64_t kMostLooks = 30'000'000;  // some tenths of a second; 1,000 modules with an entry each: a million
  looks_ += entries_.size();
  if (looks_ > kMostLooks) fail(key_, ": ", entries_.size(), " entries are too many for this model");
  for (const Entry& entry : entries_)
    if (entry.matches(name)) return &entry;
  return nullptr;
}

template <class T>
T ByName<T>::at(const std::string& name) const {
  const Entry* entry = find(name);
  return entry ? entry->value : otherwise_;
}

template <class T>
void ByName<T>::check_entries(const std::vector<std::string>& modules) const {
  std::set<const Entry*> used;
  for (const std::string& module : modules) used.insert(find(module));
  for (const Entry& entry : entries_) {
    if (used.contains(&entry)) continue;
    for (const std::string& module : modules)
      if (entry.matches(module))
        fail(key_, ": '", entry.pattern, "' does nothing, as '", find(module)->pattern,
             "' comes before it and matches the same modules: put '", entry.pattern, "' first");
    std::set<std::string> names;
    for (const std::string& module : modules) names.insert(last_part(module));
    fail(key_, ": '", entry.pattern, "' matches no adapted module", hint(entry.pattern, names));
  }
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

void ModuleRanks::check_entries(const std::vector<ModuleMatch>& matches) const {
  std::vector<std::string> modules;
  for (const ModuleMatch& match : matches) modules.push_back(match.module.name);
  r_.check_entries(modules);
  alpha_.check_entries(modules);
}

std::vector<ModuleMatch> match_modules(const LoraConfig& config, const std::vector<LinearModule>& linears,
                                       IdleEntries idle) {
  const auto* text = std::get_if<std::string>(&config.target_modules);
  if (text ? text->empty() : std::get<StringList>(config.target_modules).empty())
    fail("target_modules: expected names of linear layers, got none; this model's are ", listed(linears));
  if (text && !config.layers_to_transform.empty())
    fail("layers_to_transform: needs a list in target_modules, got the string '", *text, "'");
  const std::set<int64_t> layers(config.layers_to_transform.begin(), config.layers_to_transform.end());
  const bool all = text && is_all_linear(*text);
  Names wanted("target_modules", all ? ModuleNames(StringList{}) : config.target_modules);
  Names excluded("exclude_modules", config.exclude_modules);
  if (idle == IdleEntries::kRefused) {
    check_entries(kTargets, wanted, linears);
    check_entries("exclude_modules", excluded, linears);
    check_layers(layers, linears);
  }
  const ModuleRanks ranks(config);

  std::vector<ModuleMatch> matches;
  for (const LinearModule& module : linears) {
    const bool is_wanted = all ? !module.is_head && !module.is_embedding
                               : wanted.match(module.name) && is_in_layers(layers, wanted, module.name);
    if (is_wanted && !excluded.match(module.name) && !is_in_saved_module(config.modules_to_save, module.name))
      matches.push_back(ranks.match(module));
  }
  if (matches.empty() && text && !all)
    fail("target_modules: '", *text, "' matches no linear layer (", listed(linears), ")", hint_on_all_linear(*text),
         "; a string is a regular expression for the whole name, such as ", full_names(linears),
         ": give a list for names");
  if (matches.empty() && !text) check_entries(kTargets, wanted, linears);
  if (matches.empty())
    fail(
        "target_modules: nothing is left after exclude_modules and layers_to_transform; this model's linear layers "
        "are ",
        listed(linears));
  if (idle == IdleEntries::kRefused) ranks.check_entries(matches);
  return matches;
}

BaseParts parts_of(const Model& model) {
  const ModelConfig& config = model.config;
  const Architecture& family = find_architecture(config.architecture);
  BaseParts parts;
  parts.modules = model.linears;
  parts.modules.push_back({family.embedding, config.hidden_size, config.vocab_size, false, true});
  for (const TensorSpec& tensor : tensor_list(config)) parts.tensors.emplace(tensor.name, tensor.shape);
  parts.embedding = family.embedding + kWeightSuffix;
  parts.head = family.head + kWeightSuffix;
  parts.is_tied = config.tie_word_embeddings;
  parts.tensors[parts.head] = parts.tensors.at(parts.embedding);
  return parts;
}

namespace {

// The entries of modules_to_save that the module, or one that it lies in, ends in.
void mark_saved(std::map<std::string, bool>& entries, std::string module, bool& is_saved) {
  for (;; module = without_last_part(module)) {
    for (auto& [entry, has_matched] : entries)
      if (module.ends_with(entry)) has_matched = is_saved = true;
    if (module.find('.') == std::string::npos) return;
  }
}

}  // namespace

std::vector<WholeTensor> match_tensors(const LoraConfig& config, const std::vector<ModuleMatch>& matches,
                                       const BaseParts& base, IdleEntries idle) {
  std::set<std::string> adapted, modules;
  for (const ModuleMatch& match : matches) adapted.insert(match.module.name);
  std::map<std::string, bool> entries;  // of modules_to_save: whether they have matched
  for (const std::string& entry : config.modules_to_save) entries.emplace(entry, false);
  std::vector<WholeTensor> matrices, vectors;
  bool has_bias = false;
  for (const auto& [name, shape] : base.tensors) {
    const std::string module = without_last_part(name);
    const bool is_adapted = adapted.contains(module), is_bias = name.ends_with(kBiasSuffix);
    modules.insert(last_part(module));
    bool is_saved = false;
    mark_saved(entries, module, is_saved);
    if (is_saved && is_adapted)
      fail("modules_to_save: expected none of the adapted modules, got ", module,
           ": leave it out here, or in target_modules");
    const bool is_free_bias = is_bias && (config.bias == "all" || (config.bias == "lora_only" && is_adapted));
    if (is_saved && is_bias && config.bias == "all")
      fail("bias: expected none or lora_only beside modules_to_save, which trains ", name, " already, got all");
    if (!is_saved && !is_free_bias) continue;
    has_bias = has_bias || is_free_bias;
    const std::string stored = is_adapted ? module + ".base_layer" + kBiasSuffix : name;
    (shape.size() > 1 ? matrices : vectors).push_back({.name = name, .key = std::string(kAdapterPrefix) + stored});
  }
  if (idle == IdleEntries::kRefused) {
    for (const auto& [entry, has_matched] : entries)
      if (!has_matched)
        fail("modules_to_save: '", entry, "' is the end of no module's name", did_you_mean(nearest(entry, modules)));
    if (config.bias != "none" && !has_bias)
      fail("bias: expected none, as ", config.bias == "all" ? "no layer" : "no adapted module",
           " of this model has a bias, got ", config.bias);
  }
  matrices.insert(matrices.end(), vectors.begin(), vectors.end());
  return matrices;
}

StringList idle_targets(const LoraConfig& config, const std::vector<LinearModule>& linears) {
  if (std::holds_alternative<std::string>(config.target_modules)) return {};
  Names targets("target_modules", config.target_modules);
  return unmatched_by(targets, linears);
}

std::vector<std::string> short_names(const std::vector<LinearModule>& linears) {
  std::vector<std::string> names;
  std::set<std::string> seen;
  for (const LinearModule& module : linears)
    if (const std::string name = last_part(module.name); !module.is_embedding && seen.insert(name).second)
      names.push_back(name);
  return names;
}

}  // namespace rankfold
