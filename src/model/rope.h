// The angles of rotary positions (RoPE), for every rope type, as transformers computes them.
#pragma once

#include "ops/projection.h"
#include "rankfold/causal_lm.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <vector>

namespace rankfold {

// Tables of cosines and sines, and each token's row (line) in them.
struct Angles {
  Rope rope;
  at::Tensor lines;  // [T] int64
};

// Tables for one set of parameters. They grow when longer rows come. Where frequencies depend on the length (dynamic,
// longrope), each row's own length decides; in transformers that of the batch's longest row. Not thread-safe.
class RopeTable {
 public:
  RopeTable(const RopeParameters& parameters, int64_t rotary, at::Device device);

  // positions [T] int64 on the CPU; row b is tokens [offsets[b], offsets[b + 1]).
  Angles of(const at::Tensor& positions, const std::vector<int64_t>& offsets);
  // Whether the cached keys of a row that grows from `before` to `after` tokens need a new rotation. True where
  // longrope changes to its long frequencies; dynamic keeps the old rotation, as transformers does.
  bool turns_anew(int64_t before, int64_t after) const {
    return parameters_.type == RopeType::longrope && before > 0 && kind_of(before) != kind_of(after);
  }

 private:
  // Rows with equal kinds have the same frequencies.
  int64_t kind_of(int64_t length) const;
  std::vector<float> frequencies(int64_t kind) const;
  const Rope& table(int64_t kind, int64_t positions);

  RopeParameters parameters_;
  int64_t rotary_;
  double magnitude_;  // factor on cosines and sines
  at::Device device_;
  std::map<int64_t, Rope> tables_;  // by kind
};

}  // namespace rankfold
