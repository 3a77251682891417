// Folders whose config.json has a quantization_config: how their linear layers are stored, and those layers as
// PackedWeight. Thread safe.
#pragma once

#include "io/model_folder.h"
#include "ops/packed_weight.h"

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace rankfold {

class QuantizedFolder {
 public:
  // Reads quantization_config and checks it against the tensors' names. nullopt: the folder has none. UserError names a
  // method or a setting that is not read.
  static std::optional<QuantizedFolder> open(const ModelFolder& folder);

  // Whether a linear layer, by its name without ".weight", is stored in fewer bits.
  bool holds(const std::string& module) const;
  // The weight [rows, columns] of such a layer: views of the mapping where the layout is ours, else a copy, after which
  // the pages of the file are let go. UserError names a tensor that is missing, misshaped or out of range.
  PackedWeight weight(const std::string& module, int64_t rows, int64_t columns) const;
  // The tensors that this layer is stored as: what must have a place in the model.
  std::vector<std::string> tensors_of(const std::string& module) const;
  // How: "bitsandbytes nf4, nested scales", "gptq 4 bits in groups of 128".
  const std::string& text() const;
  // What the layers were quantised from, as far as the folder says: rounding of values, dtype for a merge.
  at::ScalarType source_dtype() const;
  // One line on keys of quantization_config that nobody here knows; empty: none.
  const std::string& notes() const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

}  // namespace rankfold
