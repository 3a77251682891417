// norm_project, project_add and glu_project_add: three ways to make the input of a projection, one projection.
#include "ops/project.h"

#include "core/check.h"
#include "core/row_chunks.h"
#include "ops/ops.h"
#include "ops/rows.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace rankfold::ops {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

std::vector<at::Tensor> trained_leaves(const Projection& projection) {
  std::vector<at::Tensor> leaves;
  for (const Module& m : projection.modules)
    if (m.master.defined()) leaves.push_back(m.master);
  for (const Module& m : projection.modules)
    if (m.bias_master.defined()) leaves.push_back(m.bias_master);
  for (const LowRank& u : projection.updates) leaves.insert(leaves.end(), {u.a, u.b});
  return leaves;
}

namespace {
const char* name_of(Source source) {
  return source == Source::norm ? "norm_project" : source == Source::glu ? "glu_project_add" : "project_add";
}
}  // namespace

Projected project(const Input& input, Projection& projection, const Pass& pass, const at::Tensor& residual) {
  if (const Backend* backend = backend_for(input.in))
    return with_op_name(name_of(input.source),
                        [&] { return by_kernels::project(*backend, input, projection, pass, residual); });
  return on_cpu::project(input, projection, pass, residual);
}

namespace {

// From the gradients of rows that are divided by their norms to those of the rows themselves; masters' come first.
void through_unit_rows(const Projection& projection, std::vector<at::Tensor>& gradients) {
  constexpr int64_t kElements = 1 << 22;
  size_t next = 0;
  for (const Module& m : projection.modules) {
    if (!m.master.defined()) continue;
    const at::Tensor& whole = gradients.at(next++);
    for_row_chunks(whole.size(0), whole.size(1), kElements, [&](int64_t begin, int64_t count) {
      const at::Tensor rows = m.master.detach().narrow(0, begin, count), norms = row_norms(rows), unit = rows / norms;
      at::Tensor gradient = whole.narrow(0, begin, count);
      gradient.sub_(unit * (gradient * unit).sum(1, /*keepdim=*/true)).div_(norms);
    });
  }
}

}  // namespace

ProjectedGradient project_backward(const at::Tensor& dy, const Input& input, Projection& projection, const Pass& pass,
                                   const std::vector<at::Tensor>& s, const at::Tensor& d_residual, bool needs_d_in) {
  ProjectedGradient gradient;
  if (const Backend* backend = backend_for(dy))
    gradient = with_op_name(name_of(input.source), [&] {
      return by_kernels::project_backward(*backend, dy, input, projection, pass, s, d_residual, needs_d_in);
    });
  else
    gradient = on_cpu::project_backward(dy, input, projection, pass, s, d_residual, needs_d_in);
  if (projection.has_unit_rows) through_unit_rows(projection, gradient.leaves);
  return gradient;
}

namespace {

// What backward needs beside tensors. The pass owns projection and norm.
struct SavedProjection : torch::CustomClassHolder {
  SavedProjection(Projection& projection, Norm* norm, Activation activation, Pass pass)
      : projection(projection), norm(norm), activation(activation), pass(std::move(pass)) {}
  Projection& projection;
  Norm* norm;
  Activation activation;
  Pass pass;
};
void save_arguments(AutogradContext* ctx, Projection& projection, Norm* norm, Activation activation, const Pass& pass) {
  ctx->saved_data["arguments"] =
      c10::IValue::make_capsule(c10::make_intrusive<SavedProjection>(projection, norm, activation, pass));
  ctx->set_materialize_grads(false);
}
SavedProjection& saved_arguments(AutogradContext* ctx) {
  return static_cast<SavedProjection&>(*ctx->saved_data["arguments"].toCapsule());
}

variable_list followed_by(variable_list first, std::vector<at::Tensor> rest) {
  first.insert(first.end(), std::make_move_iterator(rest.begin()), std::make_move_iterator(rest.end()));
  return first;
}

// What lies between the first `before` and the last `after` of the saved tensors: S. The last ones are the trained
// leaves, kept only for their version check: an optimizer step between forward and backward is an error.
std::vector<at::Tensor> sums_of(const variable_list& saved, size_t before, size_t after) {
  return {saved.begin() + static_cast<std::ptrdiff_t>(before), saved.end() - static_cast<std::ptrdiff_t>(after)};
}

struct NormProject : Function<NormProject> {
  static variable_list forward(AutogradContext* ctx, at::TensorList inputs, Norm& norm, Projection& projection,
                               const Pass& pass) {
    const at::Tensor& h = inputs[0];
    Projected result = project({Source::norm, h, &norm}, projection, pass, {});
    save_arguments(ctx, projection, &norm, Activation::silu, pass);
    ctx->save_for_backward(followed_by(followed_by({h, result.rstd}, std::move(result.s)), inputs.slice(1).vec()));
    return {result.y, h};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const SavedProjection& arguments = saved_arguments(ctx);
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& d_residual = grads[1];
    const bool has_gain = arguments.norm->master.defined();
    const size_t leaves = trained_leaves(arguments.projection).size();
    if (!grads[0].defined()) return followed_by({d_residual}, std::vector<at::Tensor>(has_gain + leaves + 3));
    ProjectedGradient gradient =
        project_backward(grads[0], {Source::norm, saved[0], arguments.norm, saved[1]}, arguments.projection,
                         arguments.pass, sums_of(saved, 2, has_gain + leaves), d_residual, ctx->needs_input_grad(0));
    variable_list result{gradient.d_in};
    if (has_gain) result.push_back(gradient.d_gain);
    return followed_by(followed_by(std::move(result), std::move(gradient.leaves)), std::vector<at::Tensor>(3));
  }
};

// y = residual + projection(x), where x is the input itself or activation(gate) * up of it. inputs: input, the residual
// where there is one, trained leaves.
template <Source kSource>
struct ProjectAdd : Function<ProjectAdd<kSource>> {
  static at::Tensor forward(AutogradContext* ctx, at::TensorList inputs, Projection& projection, Activation activation,
                            bool has_residual, const Pass& pass) {
    const at::Tensor& input = inputs[0];
    Projected result =
        project({kSource, input, nullptr, {}, activation}, projection, pass, has_residual ? inputs[1] : at::Tensor());
    save_arguments(ctx, projection, nullptr, activation, pass);
    ctx->saved_data["has_residual"] = has_residual;
    const bool keep = kSource == Source::glu || projection.trains();
    ctx->save_for_backward(followed_by(followed_by({keep ? input : at::Tensor()}, std::move(result.s)),
                                       inputs.slice(has_residual ? 2 : 1).vec()));
    return result.y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const SavedProjection& arguments = saved_arguments(ctx);
    const variable_list saved = ctx->get_saved_variables();
    const bool has_residual = ctx->saved_data["has_residual"].toBool();
    const size_t leaves = trained_leaves(arguments.projection).size();
    if (!grads[0].defined()) return variable_list(1 + has_residual + leaves + 4);
    ProjectedGradient gradient =
        project_backward(grads[0], {kSource, saved[0], nullptr, {}, arguments.activation}, arguments.projection,
                         arguments.pass, sums_of(saved, 1, leaves), {}, ctx->needs_input_grad(0));
    variable_list result{gradient.d_in};
    if (has_residual) result.push_back(grads[0]);
    return followed_by(followed_by(std::move(result), std::move(gradient.leaves)), std::vector<at::Tensor>(4));
  }
};

// Rows may be apart, as a view of some columns has them; the elements of a row lie side by side.
void check_rows(const char* op, const char* name, const at::Tensor& x) {
  RANKFOLD_CHECK(x.dim() == 2 && has_dense_rows(x), op, ": ", name, " must be a matrix with dense rows, got strides ",
                 x.strides());
}

template <Source kSource>
at::Tensor project_add_as(const char* op, const at::Tensor& input, Activation activation, Projection& projection,
                          const at::Tensor& residual, const Pass& pass) {
  const int64_t features = kSource == Source::glu ? input.size(1) / 2 : input.size(1);
  RANKFOLD_CHECK(features == projection.in_features(), op, ": expected ", projection.in_features(), " features, got ",
                 features);
  check_rows(op, "input", input);
  variable_list inputs{input};
  if (residual.defined()) {
    check_rows(op, "residual", residual);
    inputs.push_back(residual);
  }
  inputs = followed_by(std::move(inputs), trained_leaves(projection));
  return ProjectAdd<kSource>::apply(at::TensorList(inputs), projection, activation, residual.defined(), pass);
}

}  // namespace

std::pair<at::Tensor, at::Tensor> norm_project(const at::Tensor& h, Norm& norm, Projection& projection,
                                               const Pass& pass) {
  check_rows("norm_project", "h", h);
  RANKFOLD_CHECK(h.size(1) == projection.in_features(), "norm_project: expected ", projection.in_features(),
                 " features, got ", h.size(1));
  variable_list inputs{h};
  if (norm.master.defined()) inputs.push_back(norm.master);
  inputs = followed_by(std::move(inputs), trained_leaves(projection));
  const variable_list out = NormProject::apply(at::TensorList(inputs), norm, projection, pass);
  return {out[0], out[1]};
}

at::Tensor project_add(const at::Tensor& x, Projection& projection, const at::Tensor& residual, const Pass& pass) {
  return project_add_as<Source::plain>("project_add", x, Activation::silu, projection, residual, pass);
}

at::Tensor glu_project_add(const at::Tensor& gate_up, Activation activation, Projection& projection,
                           const at::Tensor& residual, const Pass& pass) {
  return project_add_as<Source::glu>("glu_project_add", gate_up, activation, projection, residual, pass);
}

}  // namespace rankfold::ops
