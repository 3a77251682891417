// Trained values in one flat fp32 buffer, their gradients in another: clipping, AdamW and checkpoints are one call each.
#pragma once

#include "rankfold/adapter.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace rankfold {

struct Leaf {
  std::string key;  // in the file that it is saved to
  std::vector<int64_t> shape;
  bool is_decayed = true;                                   // by AdamW's weight decay
  std::function<void(const at::Tensor& value)> initialise;  // empty: zeros
};

class FlatLeaves {
 public:
  FlatLeaves() = default;
  // Every leaf is a slice of the buffer, in this order, with its gradient a slice of the other; decayed ones come first.
  FlatLeaves(const std::vector<Leaf>& leaves, at::Device device);

  const std::vector<Parameter>& parameters() const { return parameters_; }
  const at::Tensor& leaf(const std::string& key) const;

  at::Tensor values, gradient;  // [P] fp32
  int64_t decayed = 0;          // the first values

 private:
  std::vector<Parameter> parameters_;
  std::map<std::string, size_t> index_;
};

}  // namespace rankfold
