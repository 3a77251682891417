// Reads folders whose config.json has a quantization_config: the format of their linear layers, and those layers as
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
  // Reads quantization_config and checks it against the tensors' names. nullopt: the folder has none. Throws UserError
  // that names an unsupported method or setting.
  static std::optional<QuantizedFolder> open(const ModelFolder& folder);

  // Whether a linear layer, named without ".weight", is quantised.
  bool holds(const std::string& module) const;
  // Returns the weight [rows, columns] of such a layer. The tensors are views of the mapping if the layout is that of
  // PackedWeight. Otherwise they are copies, and the pages of the file are released. Throws UserError that names a
  // tensor that is missing, has another shape or has values out of range.
  PackedWeight weight(const std::string& module, int64_t rows, int64_t columns) const;
  // Names of the tensors that store this layer, all of which the model must account for.
  std::vector<std::string> tensors_of(const std::string& module) const;
  // The format in words: "bitsandbytes nf4, nested scales", "gptq 4 bits in groups of 128".
  const std::string& text() const;
  // The dtype before quantisation, as far as the folder tells. It determines rounding of decoded values and the dtype
  // of a merge.
  at::ScalarType source_dtype() const;
  // One line about unknown keys of quantization_config; empty: none.
  const std::string& notes() const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

}  // namespace rankfold
