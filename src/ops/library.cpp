// The ops for Python: after torch.ops.load_library("librankfold.so") they are torch.ops.rankfold.*, with a gradient for
// every floating-point argument that requires one (but cos and sin). ops.h has their formulas.
//
//   norm_project(h [T, K], norm_weight [K], eps, weight [N, K], UPDATES) -> (y [T, N], h)
//   project_add(x [T, K], residual [T, N], weight [N, K], UPDATES) -> [T, N]
//   swiglu_project_add(gate_up [T, 2 K], residual [T, N], weight [N, K], UPDATES) -> [T, N]
//   attend(qkv [T, (query + 2 key_value) * D], cos [P, D / 2], sin [P, D / 2], positions [T], offsets, query_heads,
//          key_value_heads) -> [T, query * D]     sequence b is tokens [offsets[b], offsets[b + 1]); cos, sin are fp32
//   norm_head_loss(h [T, K], norm_weight [K], eps, head [V, K], labels [T]) -> scalar: a sum over labels >= 0, each the
//          token that its position must predict (shifted already)
//   dropout_mask(rows [T], positions [T], features, dropout, seed=0, step=0, module=0) -> [T, features] fp32: 0 or
//          1 / (1 - dropout), the mask that the ops apply (dropout.h)
//
// UPDATES = a, b, scale, dropout=0, seed=0, step=0, first_module=0, rows=None, positions=None. The modules of `weight`
// follow each other: module i is the next b[i].size(0) rows, its update scale[i] * drop(x) a[i]^T b[i]^T with
// a[i] [r, K] and b[i] [rows, r], fp32 or in the dtype of x. Rank 0 stands for a module without update, empty lists for
// a weight without any. Module i draws dropout mask first_module + i; rows and positions (int) are each token's
// counters and default to one sequence. Dropout happens wherever it is above 0: pass 0 in evaluation.
//
// Tensors are flat: tokens lie end to end, no batch dimension. Each call makes its own low-precision copies of the
// updates and, with kernels, lays the weight out anew: for tests and experiments, where a trainer keeps Projections
// (projection.h). Wrong arguments raise ValueError. No meta kernels, hence no torch.compile through an op.
#include "core/check.h"
#include "ops/dropout.h"
#include "ops/open_cuda.h"
#include "ops/ops.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include <memory>
#include <optional>
#include <string>
#include <tuple>

namespace rankfold::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// What one call works on. Backward needs it after the call: Pass::owner keeps it.
struct Work {
  Norm norm;
  Projection projection;
};

struct UpdateArguments {
  at::TensorList a, b;
  at::ArrayRef<double> scale;
  double dropout = 0;
  int64_t seed = 0, step = 0, first_module = 0;
  const OptionalTensor &rows, &positions;
};

void check_matrix(const char* op, const std::string& name, const Tensor& x, const at::Device& device) {
  RANKFOLD_CHECK(x.dim() == 2 && x.is_contiguous() && x.device() == device, op, ": ", name,
                 " must be a contiguous matrix on ", device, ", got ", x.sizes(), " with strides ", x.strides(), " on ",
                 x.device());
}

// The tensor that the tokens come in. Rows may be apart; the op itself asks that their elements be dense.
// Also opens the device that x is on: Python has no other way to.
void check_tokens(const char* op, const char* name, const Tensor& x) {
  RANKFOLD_CHECK(x.is_cpu() || x.is_cuda(), op, ": ", name, " must be on the CPU or a CUDA device, got ", x.device());
  if (x.is_cuda()) open_device(x.device().str());
  RANKFOLD_CHECK(x.dim() == 2 && x.is_floating_point(), op, ": ", name,
                 " must be a floating-point matrix [tokens, features], got ", x.scalar_type(), " ", x.sizes());
}

void check_residual(const char* op, const Tensor& residual, const Tensor& x, const Tensor& weight) {
  RANKFOLD_CHECK(residual.sizes() == at::IntArrayRef({x.size(0), weight.size(0)}) &&
                     residual.scalar_type() == x.scalar_type() && residual.device() == x.device(),
                 op, ": residual must be ", x.scalar_type(), " [", x.size(0), ", ", weight.size(0), "] on ", x.device(),
                 ", got ", residual.scalar_type(), " ", residual.sizes(), " on ", residual.device());
}

Norm make_norm(const char* op, const Tensor& weight, double eps, const Tensor& h) {
  RANKFOLD_CHECK(weight.sizes() == at::IntArrayRef({h.size(1)}) && weight.is_contiguous() &&
                     weight.scalar_type() == h.scalar_type() && weight.device() == h.device(),
                 op, ": norm_weight must be ", h.scalar_type(), " [", h.size(1), "] on ", h.device(), ", got ",
                 weight.scalar_type(), " ", weight.sizes(), " on ", weight.device());
  Norm norm;
  norm.weight = weight.detach();
  if (weight.requires_grad()) norm.master = weight;
  norm.eps = eps;
  return norm;
}

Projection make_projection(const char* op, const Tensor& weight, const UpdateArguments& updates, const Tensor& x) {
  check_matrix(op, "weight", weight, x.device());
  RANKFOLD_CHECK(weight.scalar_type() == x.scalar_type(), op, ": weight must be ", x.scalar_type(),
                 " as the input, got ", weight.scalar_type());
  const size_t count = updates.a.size();
  RANKFOLD_CHECK(updates.b.size() == count && updates.scale.size() == count, op,
                 ": a, b and scale must be of one length, got ", count, ", ", updates.b.size(), " and ",
                 updates.scale.size());
  Projection projection;
  projection.frozen = std::make_shared<DenseWeight>(weight.detach());
  int64_t begin = 0;
  for (size_t i = 0; i < count; ++i) {
    const Tensor &a = updates.a[i], &b = updates.b[i];
    const std::string number = "[" + std::to_string(i) + "]";
    check_matrix(op, "a" + number, a, x.device());
    check_matrix(op, "b" + number, b, x.device());
    RANKFOLD_CHECK(a.size(1) == weight.size(1) && b.size(1) == a.size(0), op, ": expected a", number, " [r, ",
                   weight.size(1), "] and b", number, " [rows, r], got ", a.sizes(), " and ", b.sizes());
    for (const Tensor& leaf : {a, b})
      RANKFOLD_CHECK(leaf.scalar_type() == at::kFloat || leaf.scalar_type() == x.scalar_type(), op, ": a", number,
                     " and b", number, " must be Float or ", x.scalar_type(), ", got ", leaf.scalar_type());
    Module m;
    m.begin = begin, m.end = begin += b.size(0);
    if (a.size(0) > 0) {
      LowRank& u = projection.updates.emplace_back();
      u.begin = m.begin, u.end = m.end;
      u.a = a, u.b = b, u.scale = updates.scale[i];
      u.index = updates.first_module + static_cast<int64_t>(i);
    }
    projection.modules.push_back(std::move(m));
  }
  if (count == 0) {
    projection.modules.resize(1);
    projection.modules[0].end = begin = weight.size(0);
  }
  RANKFOLD_CHECK(begin == weight.size(0), op, ": the rows of b must be those of weight, ", weight.size(0), ", got ",
                 begin);
  if (weight.requires_grad())
    for (Module& m : projection.modules) m.master = weight.narrow(0, m.begin, m.end - m.begin);
  return projection;
}

Tensor counters(const char* op, const char* name, const OptionalTensor& given, const Tensor& otherwise) {
  if (!given) return otherwise;
  RANKFOLD_CHECK(given->sizes() == otherwise.sizes() && at::isIntegralType(given->scalar_type(), /*includeBool=*/false),
                 op, ": ", name, " must be integers ", otherwise.sizes(), ", got ", given->scalar_type(), " ",
                 given->sizes());
  return given->to(otherwise.options()).contiguous();
}

Pass make_pass(const char* op, const UpdateArguments& updates, const Tensor& x, std::shared_ptr<void> owner) {
  Pass pass;
  pass.owner = std::move(owner);
  if (updates.dropout == 0) return pass;
  RANKFOLD_CHECK(updates.dropout > 0 && updates.dropout < 1, op, ": dropout must be in [0, 1), got ", updates.dropout);
  const auto options = x.options().dtype(at::kInt);
  pass.dropout = updates.dropout;
  pass.seed = static_cast<uint64_t>(updates.seed);
  pass.step = updates.step;
  pass.rows = counters(op, "rows", updates.rows, at::zeros({x.size(0)}, options));
  pass.positions = counters(op, "positions", updates.positions, at::arange(x.size(0), options));
  return pass;
}

std::tuple<Tensor, Tensor> norm_project_op(const Tensor& h, const Tensor& norm_weight, double eps, const Tensor& weight,
                                           at::TensorList a, at::TensorList b, at::ArrayRef<double> scale,
                                           double dropout, int64_t seed, int64_t step, int64_t first_module,
                                           const OptionalTensor& rows, const OptionalTensor& positions) {
  const char* op = "norm_project";
  const UpdateArguments updates{a, b, scale, dropout, seed, step, first_module, rows, positions};
  check_tokens(op, "h", h);
  const auto work = std::make_shared<Work>();
  work->norm = make_norm(op, norm_weight, eps, h);
  work->projection = make_projection(op, weight, updates, h);
  const auto [y, residual] = norm_project(h, work->norm, work->projection, make_pass(op, updates, h, work));
  return {y, residual};
}

Tensor project_add_op(const Tensor& x, const Tensor& residual, const Tensor& weight, at::TensorList a, at::TensorList b,
                      at::ArrayRef<double> scale, double dropout, int64_t seed, int64_t step, int64_t first_module,
                      const OptionalTensor& rows, const OptionalTensor& positions) {
  const char* op = "project_add";
  const UpdateArguments updates{a, b, scale, dropout, seed, step, first_module, rows, positions};
  check_tokens(op, "x", x);
  const auto work = std::make_shared<Work>();
  work->projection = make_projection(op, weight, updates, x);
  check_residual(op, residual, x, weight);
  return project_add(x, work->projection, residual, make_pass(op, updates, x, work));
}

Tensor swiglu_project_add_op(const Tensor& gate_up, const Tensor& residual, const Tensor& weight, at::TensorList a,
                             at::TensorList b, at::ArrayRef<double> scale, double dropout, int64_t seed, int64_t step,
                             int64_t first_module, const OptionalTensor& rows, const OptionalTensor& positions) {
  const char* op = "swiglu_project_add";
  const UpdateArguments updates{a, b, scale, dropout, seed, step, first_module, rows, positions};
  check_tokens(op, "gate_up", gate_up);
  RANKFOLD_CHECK(gate_up.size(1) % 2 == 0, op, ": gate_up must hold as many gates as ups, got ", gate_up.sizes());
  const auto work = std::make_shared<Work>();
  work->projection = make_projection(op, weight, updates, gate_up);
  check_residual(op, residual, gate_up, weight);
  return glu_project_add(gate_up, Activation::silu, work->projection, residual, make_pass(op, updates, gate_up, work));
}

// Waits for the device, as positions beyond the tables must not be read.
Tensor attend_op(const Tensor& qkv, const Tensor& cos, const Tensor& sin, const Tensor& positions,
                 at::IntArrayRef offsets, int64_t query_heads, int64_t key_value_heads) {
  const char* op = "attend";
  check_tokens(op, "qkv", qkv);
  check_matrix(op, "cos", cos, qkv.device());
  check_matrix(op, "sin", sin, qkv.device());
  RANKFOLD_CHECK(cos.sizes() == sin.sizes() && cos.scalar_type() == at::kFloat && sin.scalar_type() == at::kFloat, op,
                 ": cos and sin must be Float [positions, half a head], got ", cos.sizes(), " and ", sin.sizes());
  RANKFOLD_CHECK(positions.sizes() == at::IntArrayRef({qkv.size(0)}) && positions.scalar_type() == at::kLong &&
                     positions.is_contiguous() && positions.device() == qkv.device(),
                 op, ": positions must be Long [", qkv.size(0), "] on ", qkv.device(), ", got ",
                 positions.scalar_type(), " ", positions.sizes(), " on ", positions.device());
  RANKFOLD_CHECK(query_heads > 0 && key_value_heads > 0 && query_heads % key_value_heads == 0, op,
                 ": query_heads must be a multiple of key_value_heads, got ", query_heads, " and ", key_value_heads);
  for (size_t b = 0; b + 1 < offsets.size(); ++b)
    RANKFOLD_CHECK(offsets[b] < offsets[b + 1], op, ": offsets must rise, got ", offsets);
  if (positions.numel() > 0) {
    const int64_t lowest = positions.min().item<int64_t>(), highest = positions.max().item<int64_t>();
    RANKFOLD_CHECK(lowest >= 0 && highest < cos.size(0), op, ": positions must lie in the ", cos.size(0),
                   " rows of cos, got ", lowest, " to ", highest);
  }
  return attend(qkv, Heads{query_heads, key_value_heads, 2 * cos.size(1)}, {cos, sin}, positions,
                {offsets.vec(), qkv.device()});
}

Tensor norm_head_loss_op(const Tensor& h, const Tensor& norm_weight, double eps, const Tensor& head,
                         const Tensor& labels) {
  const char* op = "norm_head_loss";
  check_tokens(op, "h", h);
  RANKFOLD_CHECK(head.dim() == 2 && head.size(1) == h.size(1), op, ": head must be [vocabulary, ", h.size(1), "], got ",
                 head.sizes());
  Norm norm = make_norm(op, norm_weight, eps, h);
  Projection projection = make_projection(op, head, {{}, {}, {}, 0, 0, 0, 0, {}, {}}, h);
  return norm_head_loss(h, norm, projection, labels, {});  // its gradients are made now: backward needs neither
}

Tensor dropout_mask_op(const Tensor& rows, const Tensor& positions, int64_t features, double dropout, int64_t seed,
                       int64_t step, int64_t module) {
  RANKFOLD_CHECK(rows.dim() == 1 && positions.sizes() == rows.sizes(),
                 "dropout_mask: expected rows [T] and positions [T], got ", rows.sizes(), " and ", positions.sizes());
  RANKFOLD_CHECK(features >= 0 && dropout >= 0 && dropout < 1, "dropout_mask: expected dropout in [0, 1), got ",
                 dropout);
  return dropout_mask(static_cast<uint64_t>(seed), step, module, rows.cpu(), positions.cpu(), features, dropout)
      .to(rows.device());
}

// Composite: each is made of torch::autograd::Functions and recorded by them.
TORCH_LIBRARY(rankfold, m) {
  const std::string updates =
      "Tensor[] a, Tensor[] b, float[] scale, float dropout=0, int seed=0, int step=0, int first_module=0, "
      "Tensor? rows=None, Tensor? positions=None)";
  const auto define = [&](const std::string& schema, auto* function) { m.def(schema.c_str(), function); };
  define("norm_project(Tensor h, Tensor norm_weight, float eps, Tensor weight, " + updates + " -> (Tensor, Tensor)",
         &norm_project_op);
  define("project_add(Tensor x, Tensor residual, Tensor weight, " + updates + " -> Tensor", &project_add_op);
  define("swiglu_project_add(Tensor gate_up, Tensor residual, Tensor weight, " + updates + " -> Tensor",
         &swiglu_project_add_op);
  define(
      "attend(Tensor qkv, Tensor cos, Tensor sin, Tensor positions, int[] offsets, int query_heads, "
      "int key_value_heads) -> Tensor",
      &attend_op);
  define("norm_head_loss(Tensor h, Tensor norm_weight, float eps, Tensor head, Tensor labels) -> Tensor",
         &norm_head_loss_op);
  define(
      "dropout_mask(Tensor rows, Tensor positions, int features, float dropout, int seed=0, int step=0, int module=0) "
      "-> Tensor",
      &dropout_mask_op);
}

}  // namespace
}  // namespace rankfold::ops
