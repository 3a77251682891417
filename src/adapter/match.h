// Which linear layers a LoraConfig names, by PEFT's rules (0.21), and with which rank and scale.
#pragma once

#include "rankfold/causal_lm.h"
#include "rankfold/config.h"

#include <cstdint>
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

// r and alpha of one module: the first key of rank_pattern (alpha_pattern) that, as a regular expression, matches the
// whole name or what follows a dot in it; else the config's own. A bad regular expression is a UserError.
ModuleMatch match_one(const LoraConfig& config, const LinearModule& module);

// In the order of `linears`. Stricter than PEFT: a list entry that matches nothing is a UserError that lists what there
// is, like a target that matches nothing at all.
std::vector<ModuleMatch> match_modules(const LoraConfig& config, const std::vector<LinearModule>& linears);

bool is_all_linear(const std::string& target_modules);  // "all-linear" in any case

// "W_pack, o_proj, ...": the last part of each name, once.
std::vector<std::string> short_names(const std::vector<LinearModule>& linears);

}  // namespace rankfold
