// Finds the modules and tensors of a base model that a LoraConfig names, by PEFT's rules (0.21), with rank and scale.
#pragma once

#include "core/regex.h"
#include "rankfold/causal_lm.h"
#include "rankfold/config.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace rankfold {

inline constexpr const char* kAdapterPrefix = "base_model.model.";  // before the base's names, in an adapter's file

struct ModuleMatch {
  LinearModule module;
  int64_t r = 0;
  double alpha = 0;
  double scale = 0;  // alpha / r, or alpha / sqrt(r) with use_rslora
};

// A rank_pattern or alpha_pattern. A module gets the value of the first entry whose regular expression matches its
// whole name, or the part after one of its dots; else `otherwise`.
template <class T>
class ByName {
 public:
  // Throws UserError that names `key`, for an invalid regular expression.
  ByName(const std::string& key, const OrderedMap<T>& patterns, T otherwise);
  T at(const std::string& name) const;
  // Throws UserError that names an entry which none of these modules uses.
  void check_entries(const std::vector<std::string>& modules) const;

 private:
  struct Entry {
    std::string pattern;
    std::optional<Regex> regex;  // none where the pattern is a name
    T value;
    bool matches(const std::string& name) const;
  };
  const Entry* find(const std::string& name) const;  // null if none matches

  std::string key_;
  std::vector<Entry> entries_;
  T otherwise_;
  mutable uint64_t looks_ = 0;
};

class ModuleRanks {
 public:
  explicit ModuleRanks(const LoraConfig& config);  // throws UserError for a bad regular expression
  ModuleMatch match(const LinearModule& module) const;
  void check_entries(const std::vector<ModuleMatch>& matches) const;  // of both patterns

 private:
  ByName<int64_t> r_;
  ByName<double> alpha_;
  bool use_rslora_;
};

// A whole weight or bias of an adapter that replaces the base's.
struct WholeTensor {
  std::string name;    // of the base's tensor: "lm_head.weight"
  std::string key;     // in the adapter's file
  bool trains = true;  // false: only stored with the adapter, as by PEFT's save_embedding_layers
};

// The parts of a base model that an adapter may change.
struct BaseParts {
  std::vector<LinearModule> modules;                         // linear layers in the model's order, then the embedding
  std::map<std::string, std::vector<int64_t>> tensors = {};  // name -> shape; has both names of tied weights
  std::string embedding = {}, head = {};                     // their names in `tensors`; empty: there is none
  bool is_tied = false;                                      // embedding and head are one weight
};

BaseParts parts_of(const Model& model);

// Whether an entry of a list or pattern may match nothing. For a new run it is refused: UserError names the entry. For
// a saved adapter it is allowed, as in PEFT: only its tensors must find their modules.
enum class IdleEntries { kRefused, kAllowed };

// The modules that target_modules names, in the order of `linears`. UserError if no module matches, whatever `idle`
// says. Modules in modules_to_save are left out, as in PEFT.
std::vector<ModuleMatch> match_modules(const LoraConfig& config, const std::vector<LinearModule>& linears,
                                       IdleEntries idle = IdleEntries::kRefused);

// The tensors that train besides the updates of `matches`: those of modules_to_save, and biases. An entry of
// modules_to_save is the end of the name of a module or of one of its parents. Matrices come first; AdamW's weight
// decay applies to them.
std::vector<WholeTensor> match_tensors(const LoraConfig& config, const std::vector<ModuleMatch>& matches,
                                       const BaseParts& base, IdleEntries idle = IdleEntries::kRefused);

// The entries of a list in target_modules that match no linear layer, in the order of their names.
StringList idle_targets(const LoraConfig& config, const std::vector<LinearModule>& linears);

// "W_pack", "o_proj", ...: the last part of each name, each once, without the embedding's.
std::vector<std::string> short_names(const std::vector<LinearModule>& linears);

}  // namespace rankfold
