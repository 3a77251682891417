// The angles of rotary positions (RoPE) of every kind, as transformers computes them.
#pragma once

#include "ops/projection.h"
#include "rankfold/causal_lm.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <vector>

namespace rankfold {

// Each token's line in the tables of cosines and sines.
struct Angles {
  Rope rope;
  at::Tensor lines;  // [T] int64
};

// One set of parameters. Tables grow as longer rows come. Where frequencies depend on a row's length (dynamic, longrope),
// they follow each row's own: transformers looks at the longest of a batch. One thread at a time.
class RopeTable {
 public:
  RopeTable(const RopeParameters& parameters, int64_t rotary, at::Device device);

  // positions [T] int64 on the CPU; row b is tokens [offsets[b], offsets[b + 1]).
  Angles of(const at::Tensor& positions, const std::vector<int64_t>& offsets);
  // Whether keys of a row that were turned when it had `before` tokens are to be turned anew when it has `after`: where
  // longrope changes to its long frequencies. dynamic leaves them, as transformers does.
  bool turns_anew(int64_t before, int64_t after) const {
    return parameters_.type == RopeType::longrope && before > 0 && kind_of(before) != kind_of(after);
  }

 private:
  // What tells rows with other frequencies apart.
  int64_t kind_of(int64_t length) const;
  std::vector<float> frequencies(int64_t kind) const;
  const Rope& table(int64_t kind, int64_t positions);

  RopeParameters parameters_;
  int64_t rotary_;
  double magnitude_;  // of cosines and sines
  at::Device device_;
  std::map<int64_t, Rope> tables_;  // by kind
};

}  // namespace rankfold
