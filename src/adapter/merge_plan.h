// Plans a merge: which tensors of the base the adapter replaces, and which it adds updates to.
#pragma once

#include "adapter/merge_base.h"
#include "adapter/peft_format.h"

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>

namespace rankfold {

// The update of one weight: scale * left right, fp32.
struct WeightUpdate {
  std::string module;
  at::Tensor left, right;  // [rows, r], [r, columns]
  double scale = 0;
};

struct MergePlan {
  AdapterFolder adapter;
  std::map<std::string, WeightUpdate> updates;  // by the name of the weight
  std::map<std::string, std::string> replaced;  // tensor -> its key in the adapter's file
  bool is_untied = false;                       // the result has two weights where config.json says they are tied
  std::string added, twin;                      // of two tied weights: the one missing in the base, and the other

  bool has_adapter() const { return !adapter.path.empty(); }
  // The base's tensor that this one of the result is made from.
  const std::string& stored(const std::string& name) const { return name == added ? twin : name; }
  // The tensor before its update: the adapter's if it replaces the base's, else the base's.
  BaseTensor source(const MergeBase& base, const std::string& name) const;
};

// Throws UserError if the adapter does not belong to this base, or cannot be merged into it. An empty path: no adapter,
// the result is the base itself.
MergePlan plan_merge(const MergeBase& base, const std::filesystem::path& adapter);

}  // namespace rankfold
