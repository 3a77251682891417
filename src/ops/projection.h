// What the ops work on: frozen matrices that read one input, the low-rank updates on them, and the norms before them.
#pragma once

#include "ops/frozen_weight.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace rankfold {

// The low-precision copy of an fp32 leaf, in the dtype the model computes in; the leaf itself where that is fp32. It is
// made again when the leaf's version counter says that an optimizer has changed the leaf.
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

// What one adapter adds to the rows [begin, end) of a projection: y += scale * drop(x) A^T B^T. Several may share rows:
// their sum counts.
struct LowRank {
  int64_t begin = 0, end = 0;
  at::Tensor a, b;  // fp32 leaves [r, K], [end - begin, r]
  double scale = 0;
  int64_t index = 0;  // of the module in its adapter's list; names the dropout masks
  LowPrecisionCopy a_copy, b_copy;

  int64_t rank() const { return a.size(0); }
};

struct Augmented;  // ops/augmented.h: the weight and its updates as the kernels read them

// W [N, K] with the modules whose rows lie in it: W_pack, q/k/v or gate/up are one projection and one GEMM.
struct Projection {
  std::shared_ptr<FrozenWeight> frozen;
  at::Tensor bias;             // [N] in the model's dtype; undefined: none
  bool has_unit_rows = false;  // the weight is the stored or trained one with each row divided by its norm
  std::vector<Module> modules;
  std::vector<LowRank> updates;          // of the active adapters
  std::shared_ptr<Augmented> augmented;  // made at the first use by kernels

  int64_t in_features() const { return frozen->columns(); }
  int64_t out_features() const { return frozen->rows(); }
  bool trains() const;
  bool has_update() const { return !updates.empty(); }
  FrozenWeight& current();           // with the rows of changed masters brought up to date
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

// What the gate of an MLP goes through; gelu_tanh is GELU in its tanh form.
enum class Activation { silu, gelu_tanh };

struct Heads {
  int64_t query = 0, key_value = 0, size = 0;
  int64_t features() const { return (query + 2 * key_value) * size; }  // of queries, keys and values side by side
};

// How the attention of a layer works. Scores are q k^T * scale, then soft_cap, slopes and window in this order.
struct AttentionSpec {
  // As in LLaMA: the scale is 1 / sqrt(size), positions turn all features of queries and keys, and nothing else.
  AttentionSpec(const Heads& heads = {});  // NOLINT(google-explicit-constructor): heads alone are a whole spec

  Heads heads;
  double scale = 0;
  // In qkv each key/value head follows the queries that it serves (InternLM2): q ... q k v, q ... q k v. Prepared, all
  // queries come first, then keys, then values.
  bool is_grouped = false;
  int64_t rotary = 0;   // leading features of a head that positions turn, even; 0: none
  double soft_cap = 0;  // a score s becomes soft_cap * tanh(s / soft_cap); 0: s
  at::Tensor slopes;    // ALiBi, fp32 [query heads] on the CPU: a score loses slope * distance; undefined: nothing
  int64_t window = 0;   // tokens that a token sees, itself the last of them; 0: all before it

  // Whether scores are scaled and nothing else: what LibTorch's attention kernels can do.
  bool has_plain_scores() const { return soft_cap == 0 && !slopes.defined(); }
};

// cos and sin of the angles by which features are turned, fp32 [lines, rotary / 2]. A token names its line: its
// position, where all sequences share one set of frequencies.
struct Rope {
  at::Tensor cos, sin;
};

// What happens to queries and keys before scores are made, beside turning: a norm of each head (Qwen3).
struct QkNorms {
  Norm *q = nullptr, *k = nullptr;  // [head size]; both or none
};

// Where the sequences of a flat batch begin: sequence b is tokens [begin[b], begin[b + 1]).
struct Sequences {
  Sequences(std::vector<int64_t> begin, const at::Device& device);

  std::vector<int64_t> begin;
  at::Tensor offsets;  // the same, int32 on the device
  int64_t longest = 0;
};

// What the ops need to know of the pass they are in.
struct Pass {
  double dropout = 0;  // chance to drop an input of a low-rank update; 0 outside training
  uint64_t seed = 0;
  int64_t step = 0;
  at::Tensor rows;       // [T] int32: row within the accumulation window
  at::Tensor positions;  // [T] int32: position within the row
  // Owns the projection and the norm: a backward pass may run after the model and its adapter went out of scope, or
  // have changed.
  std::shared_ptr<void> owner = nullptr;

  Pass select(const at::Tensor& indices) const;  // the same for some of the tokens
};

}  // namespace rankfold
