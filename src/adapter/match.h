// Which modules and tensors of a base model a LoraConfig names, by PEFT's rules (0.21), and with which rank and scale.
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

// What rank_pattern or alpha_pattern says of a module: the value of the first entry that, as a regular expression,
// matches the whole name or what follows a dot in it.
template <class T>
class ByName {
 public:
  // Throws UserError, which names `key`, for what is not a regular expression.
  ByName(const std::string& key, const OrderedMap<T>& patterns, T otherwise);
  T at(const std::string& name) const;
  // Throws UserError that names an entry from which none of these modules takes its value.
  void check_entries(const std::vector<std::string>& modules) const;

 private:
  struct Entry {
    std::string pattern;
    std::optional<Regex> regex;  // none where the pattern is a name
    T value;
    bool matches(const std::string& name) const;
  };
  const Entry* find(const std::string& name) const;  // null: none matches

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

// A tensor that stands in place of the base's.
struct WholeTensor {
  std::string name;    // of the base's tensor: "lm_head.weight"
  std::string key;     // in the adapter's file
  bool trains = true;  // else the adapter brings it, as PEFT's save_embedding_layers has it
};

// What an adapter may change of a base model.
struct BaseParts {
  std::vector<LinearModule> modules;                         // linear layers in the model's order, then the embedding
  std::map<std::string, std::vector<int64_t>> tensors = {};  // name -> shape; with both of two that are tied
  std::string embedding = {}, head = {};                     // of these; empty: not there
  bool is_tied = false;                                      // the two are one
};

BaseParts parts_of(const Model& model);

// Whether an entry of a list or a pattern may do nothing. A new run's may not: it is a UserError that names the entry. An
// adapter's may, as in PEFT: what counts is that its tensors find their modules.
enum class IdleEntries { kRefused, kAllowed };

// In the order of `linears`. A target that matches nothing at all is a UserError either way. Modules in modules_to_save
// are passed over, as in PEFT.
std::vector<ModuleMatch> match_modules(const LoraConfig& config, const std::vector<LinearModule>& linears,
                                       IdleEntries idle = IdleEntries::kRefused);

// What trains beside the updates of `matches`: the tensors of modules_to_save (an entry is the end of the name of a
// module, or of one that it lies in) and biases. Matrices come first, which AdamW's weight decay is for.
std::vector<WholeTensor> match_tensors(const LoraConfig& config, const std::vector<ModuleMatch>& matches,
                                       const BaseParts& base, IdleEntries idle = IdleEntries::kRefused);

// The entries of a list in target_modules that match no linear layer, in the order of their names.
StringList idle_targets(const LoraConfig& config, const std::vector<LinearModule>& linears);

// "W_pack, o_proj, ...": the last part of each name, once; without the embedding's.
std::vector<std::string> short_names(const std::vector<LinearModule>& linears);

}  // namespace rankfold
