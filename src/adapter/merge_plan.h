// What a merged folder is made of: the base's tensors, what the adapter puts in their place, and what it adds to them.
#pragma once

#include "adapter/merge_base.h"
#include "adapter/peft_format.h"

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>

namespace rankfold {

// What an adapted module adds to its weight: scale * left right. fp32.
struct WeightUpdate {
  std::string module;
  at::Tensor left, right;  // [rows, r], [r, columns]
  double scale = 0;
};

struct MergePlan {
  AdapterFolder adapter;
  std::map<std::string, WeightUpdate> updates;  // by the name of the weight
  std::map<std::string, std::string> replaced;  // tensor -> its key in the adapter's file
  bool is_untied = false;                       // config.json ties two weights that are not one
  std::string added, twin;                      // a tied tensor that the base does not store, and the one that it does

  bool has_adapter() const { return !adapter.path.empty(); }
  // The base's tensor that this one of the result is made from.
  const std::string& stored(const std::string& name) const { return name == added ? twin : name; }
  // What the tensor is before its update: the adapter's, or the base's own.
  BaseTensor source(const MergeBase& base, const std::string& name) const;
};

// UserError where the adapter is none of this base, or cannot be merged into it. An empty path: no adapter, the base as it
// is.
MergePlan plan_merge(const MergeBase& base, const std::filesystem::path& adapter);

}  // namespace rankfold
