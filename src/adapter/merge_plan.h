// What a merged folder is made of: the base's tensors, what the adapter puts in their place, and what it adds to them.
#pragma once

#include "adapter/peft_format.h"
#include "io/model_folder.h"

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

  // What the tensor is before its update, as it is stored: the adapter's, or the base's own.
  at::Tensor source(const ModelFolder& base, const std::string& name) const;
};

// The matrices of the folder that may be linear layers or embeddings, and all its tensors, whatever the architecture.
BaseParts parts_of(const ModelFolder& folder);

// UserError where the adapter is none of this base, or cannot be merged into it.
MergePlan plan_merge(const ModelFolder& base, const std::filesystem::path& adapter);

}  // namespace rankfold
