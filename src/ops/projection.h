// The data that the ops work on: projections with their low-rank updates, norms, attention settings, sequences.
#pragma once

#include "ops/frozen_weight.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace rankfold {

// The low-precision copy of an fp32 leaf, in the dtype the model computes in; the leaf itself where that is fp32. of()
// copies again when the leaf's version counter has changed, as after an optimizer step.
class LowPrecisionCopy {
 public:
  const at::Tensor& of(const at::Tensor& leaf, at::ScalarType dtype);

 private:
  at::Tensor value_;
  uint32_t version_ = 0;
};

// One linear layer by PEFT's name: the rows [begin, end) of a projection's weight.
struct Module {
  std::string name;
  int64_t begin = 0, end = 0;
  at::Tensor master;  // fp32 leaf [end - begin, K] where the weight itself trains (full tuning, modules_to_save)
  uint32_t master_version = 0;
  at::Tensor bias_master;  // fp32 leaf [end - begin] where the bias trains
  uint32_t bias_version = 0;
};

// The update of one adapter to the rows [begin, end) of a projection: y += scale * drop(x) A^T B^T. Several updates of
// the same rows add up.
struct LowRank {
  int64_t begin = 0, end = 0;
  at::Tensor a, b;  // fp32 leaves [r, K], [end - begin, r]
  double scale = 0;
  int64_t index = 0;  // of the module in its adapter's list; selects the dropout mask
  LowPrecisionCopy a_copy, b_copy;

  int64_t rank() const { return a.size(0); }
};

struct Augmented;  // ops/augmented.h: the weight and its updates as the kernels read them

// W [N, K]: modules that read one input, stacked by rows. W_pack, q/k/v or gate/up are one projection and one product.
struct Projection {
  std::shared_ptr<FrozenWeight> frozen;
  at::Tensor bias;             // [N] in the model's dtype; undefined: none
  bool has_unit_rows = false;  // each row of the stored or trained weight is divided by its norm (Baichuan 2's head)
  std::vector<Module> modules;
  std::vector<LowRank> updates;          // of the active adapters
  std::shared_ptr<Augmented> augmented;  // created at the first use by kernels

  int64_t in_features() const { return frozen->columns(); }
  int64_t out_features() const { return frozen->rows(); }
  bool trains() const;
  bool has_update() const { return !updates.empty(); }
  FrozenWeight& current();           // the weight, after copying rows from changed masters
  const at::Tensor& current_bias();  // likewise
};

at::Tensor row_norms(const at::Tensor& x);  // [N, K] -> [N, 1]
// Each row of x [N, K] divided by its norm, in fp32 and rounded once to the dtype of `to`.
void divide_rows_by_norm(const at::Tensor& x, const at::Tensor& to);

// RMSNorm: x / sqrt(mean(x^2) + eps) * (weight + gain_offset).
struct Norm {
  std::string name;
  at::Tensor weight;  // [K] in the model's dtype
  at::Tensor master;  // fp32 leaf where it trains
  LowPrecisionCopy copy;
  double eps = 1e-6;
  double gain_offset = 0;  // 1 in Gemma

  at::Tensor current_weight() { return master.defined() ? copy.of(master, weight.scalar_type()) : weight; }
};

// The activation of an MLP's gate; gelu_tanh is GELU in its tanh form.
enum class Activation { silu, gelu_tanh };

struct Heads {
  int64_t query = 0, key_value = 0, size = 0;
  int64_t features() const { return (query + 2 * key_value) * size; }  // of queries, keys and values side by side
};

// How the attention of a layer works. Scores are q k^T * scale, then soft_cap, slopes and window in this order.
struct AttentionSpec {
  // As in LLaMA: the scale is 1 / sqrt(size), rotary positions apply to all features of a head, nothing else is set.
  AttentionSpec(const Heads& heads = {});  // NOLINT(google-explicit-constructor): heads alone are a whole spec

  Heads heads;
  double scale = 0;
  // In qkv each key/value head follows its query heads (InternLM2): q ... q k v, q ... q k v. Prepared qkv always has
  // all queries first, then keys, then values.
  bool is_grouped = false;
  int64_t rotary = 0;   // leading features of a head that get rotary positions, even; 0: none
  double soft_cap = 0;  // a score s becomes soft_cap * tanh(s / soft_cap); 0: s
  at::Tensor slopes;    // ALiBi, fp32 [query heads] on the CPU: a score loses slope * distance; undefined: nothing
  int64_t window = 0;   // tokens that a token sees, itself included; 0: all before it too

  // No soft cap and no slopes. LibTorch's fused attention kernels support only this.
  bool has_plain_scores() const { return soft_cap == 0 && !slopes.defined(); }
};

// Tables of rotary positions: cos and sin of the angles, fp32 [lines, rotary / 2]. Each token has the index of a line;
// it is its position where all sequences share one set of frequencies.
struct Rope {
  at::Tensor cos, sin;
};

// Norms of each query and key head, applied before rotary positions (Qwen3).
struct QkNorms {
  Norm *q = nullptr, *k = nullptr;  // [head size]; both or none
};

// The sequences of a flat batch: sequence b is tokens [begin[b], begin[b + 1]).
struct Sequences {
  Sequences(std::vector<int64_t> begin, const at::Device& device);

  std::vector<int64_t> begin;
  at::Tensor offsets;  // the same, int32 on the device
  int64_t longest = 0;
};

// The forward pass that an op is part of: dropout, the tokens' places, the owner of the weights.
struct Pass {
  double dropout = 0;  // probability that an input of a low-rank update is dropped; 0 outside training
  uint64_t seed = 0;
  int64_t step = 0;
  at::Tensor rows;       // [T] int32: row within the accumulation window
  at::Tensor positions;  // [T] int32: position within the row
  // Keeps the projection and the norm alive: backward may run after model and adapter were destroyed or changed.
  std::shared_ptr<void> owner = nullptr;

  Pass select(const at::Tensor& indices) const;  // the same for some of the tokens
};

}  // namespace rankfold
