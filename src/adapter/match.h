// Which linear layers a LoraConfig names, by PEFT's rules (0.21), and with which rank and scale.
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

struct ModuleMatch {
  LinearModule module;
  int64_t r = 0;
  double alpha = 0;
  double scale = 0;  // alpha / r, or alpha / sqrt(r) with use_rslora
};

// What rank_pattern or alpha_pattern says of a module: the value of the first key that, as a regular expression, matches
// the whole name or what follows a dot in it.
template <class T>
class ByName {
 public:
  // Throws UserError, which names `key`, for what is not a regular expression.
  ByName(const std::string& key, const std::map<std::string, T>& patterns, T otherwise);
  T at(const std::string& name) const;

 private:
  struct Entry {
    std::string pattern;
    std::optional<Regex> regex;  // none where the pattern is a name
    T value;
  };
  std::string key_;
  std::vector<Entry> entries_;
  T otherwise_;
  mutable uint64_t looks_ = 0;
};

class ModuleRanks {
 public:
  explicit ModuleRanks(const LoraConfig& config);  // throws UserError for a bad regular expression
  ModuleMatch match(const LinearModule& module) const;

 private:
  ByName<int64_t> r_;
  ByName<double> alpha_;
  bool use_rslora_;
};

// In the order of `linears`. Stricter than PEFT: a list entry that matches nothing is a UserError that lists what there
// is, like a target that matches nothing at all.
std::vector<ModuleMatch> match_modules(const LoraConfig& config, const std::vector<LinearModule>& linears);

// "W_pack, o_proj, ...": the last part of each name, once.
std::vector<std::string> short_names(const std::vector<LinearModule>& linears);

}  // namespace rankfold
