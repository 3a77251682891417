// norm_project, project_add and swiglu_project_add: three ways to make the input of a projection, one projection.
#include "ops/project.h"

#include "ops/dropout.h"
#include "ops/gemm.h"
#include "ops/ops.h"
#include "ops/rowwise.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace rankfold::ops {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

std::vector<at::Tensor> trained_leaves(const Projection& projection) {
  std::vector<at::Tensor> leaves;
  for (const Module& m : projection.modules) {
    if (m.master.defined()) leaves.push_back(m.master);
    if (m.has_update()) leaves.insert(leaves.end(), {m.a, m.b});
  }
  return leaves;
}

at::Tensor project(const at::Tensor& x, Projection& projection, const Pass& pass, std::vector<at::Tensor>* kept_s) {
  at::Tensor y = gemm_nt(x, projection.current_weight());
  for (Module& m : projection.modules) {
    if (!m.has_update()) continue;
    const at::Tensor dropped = pass.dropout > 0 ? dropout(x, pass, m.index) : x;
    const at::Tensor s = gemm_nt(dropped, m.a_image.of(m.a, x.scalar_type())).mul_(m.scale);
    y.narrow(1, m.begin, m.end - m.begin).addmm_(s, m.b_image.of(m.b, x.scalar_type()).t());
    if (kept_s) kept_s->push_back(s);
  }
  return y;
}

ProjectionGradient project_backward(const at::Tensor& dy, const at::Tensor& x, Projection& projection, const Pass& pass,
                                    at::TensorList kept_s, bool needs_dx) {
  ProjectionGradient gradient;
  if (needs_dx) gradient.dx = gemm_nn(dy, projection.current_weight());
  size_t update = 0;
  for (Module& m : projection.modules) {
    if (!m.trains()) continue;
    const at::Tensor dy_m = dy.narrow(1, m.begin, m.end - m.begin);
    if (m.master.defined()) gradient.leaves.push_back(gemm_tn(dy_m, x));
    if (!m.has_update()) continue;
    const at::Tensor ds = gemm_nn(dy_m, m.b_image.of(m.b, dy.scalar_type())).mul_(m.scale);
    const at::Tensor dropped = pass.dropout > 0 ? dropout(x, pass, m.index) : x;
    gradient.leaves.push_back(gemm_tn(ds, dropped));
    gradient.leaves.push_back(gemm_tn(dy_m, kept_s[update++]));
    if (!needs_dx) continue;
    const at::Tensor through = gemm_nn(ds, m.a_image.of(m.a, dy.scalar_type()));
    if (pass.dropout > 0) {
      dropout_add(gradient.dx, through, pass, m.index);
    } else {
      gradient.dx.add_(through);
    }
  }
  return gradient;
}

at::Tensor rms_norm(const at::Tensor& h, const at::Tensor& g, double eps, at::Tensor* rstd) {
  at::Tensor y = at::empty_like(h);
  at::Tensor r = at::empty({h.size(0)}, h.options().dtype(sum_dtype(h.scalar_type())));
  const int64_t k = h.size(1);
  with_dtype(h.scalar_type(), [&]<class T>(T) {
    using Sum = typename cpu::LoopTable<T>::Sum;
    for_rows(h.size(0), k, [&](int64_t begin, int64_t end) {
      cpu::loops().of<T>().rms_norm(const_data<T>(h) + begin * k, const_data<T>(g), eps, end - begin, k,
                                    data<T>(y) + begin * k, data<Sum>(r) + begin);
    });
  });
  if (rstd) *rstd = r;
  return y;
}

std::pair<at::Tensor, at::Tensor> rms_norm_backward(const at::Tensor& dy, const at::Tensor& h, const at::Tensor& g,
                                                    const at::Tensor& rstd, const at::Tensor& residual, bool needs_dg) {
  // The gain's gradient: partial sums over fixed blocks of rows, added in order, so that the bytes do not depend on
  // which thread came first.
  constexpr int64_t kBlock = 64;
  const int64_t m = h.size(0), k = h.size(1), blocks = (m + kBlock - 1) / kBlock;
  at::Tensor dh = at::empty_like(h);
  at::Tensor partial = needs_dg ? at::zeros({blocks, k}, rstd.options()) : at::Tensor();
  with_dtype(h.scalar_type(), [&]<class T>(T) {
    using Sum = typename cpu::LoopTable<T>::Sum;
    for_rows(blocks, kBlock * k, [&](int64_t first, int64_t last) {
      for (int64_t block = first; block < last; ++block) {
        const int64_t begin = block * kBlock, rows = std::min(kBlock, m - begin);
        cpu::loops().of<T>().rms_norm_backward(
            const_data<T>(dy) + begin * k, const_data<T>(h) + begin * k, const_data<T>(g),
            const_data<Sum>(rstd) + begin, residual.defined() ? const_data<T>(residual) + begin * k : nullptr, rows, k,
            data<T>(dh) + begin * k, needs_dg ? data<Sum>(partial) + block * k : nullptr);
      }
    });
  });
  return {dh, needs_dg ? partial.sum(0) : at::Tensor()};
}

namespace {

// What backward needs beside tensors. The projection belongs to the decoder, which outlives the graph.
struct Held : torch::CustomClassHolder {
  Held(Projection& projection, Norm* norm, Pass pass) : projection(projection), norm(norm), pass(std::move(pass)) {}
  Projection& projection;
  Norm* norm;
  Pass pass;
};
void hold(AutogradContext* ctx, Projection& projection, Norm* norm, const Pass& pass) {
  ctx->saved_data["held"] = c10::IValue::make_capsule(c10::make_intrusive<Held>(projection, norm, pass));
  ctx->set_materialize_grads(false);
}
Held& held(AutogradContext* ctx) { return static_cast<Held&>(*ctx->saved_data["held"].toCapsule()); }

variable_list followed_by(variable_list first, std::vector<at::Tensor> rest) {
  first.insert(first.end(), std::make_move_iterator(rest.begin()), std::make_move_iterator(rest.end()));
  return first;
}

// Leaves are kept too, only for their version check: an optimizer step between forward and backward is an error.
struct NormProject : Function<NormProject> {
  static variable_list forward(AutogradContext* ctx, at::TensorList inputs, Norm& norm, Projection& projection,
                               const Pass& pass) {
    const at::Tensor& h = inputs[0];
    at::Tensor rstd;
    const at::Tensor x = rms_norm(h, norm.current_weight(), norm.eps, &rstd);
    std::vector<at::Tensor> s;
    at::Tensor y = project(x, projection, pass, &s);
    hold(ctx, projection, &norm, pass);
    ctx->save_for_backward(followed_by({h, rstd}, followed_by(s, inputs.slice(1).vec())));
    return {y, h};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const Held& held = ops::held(ctx);
    Norm& norm = *held.norm;
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &h = saved[0], &rstd = saved[1], &through = grads[1];
    const bool has_gain = norm.master.defined(), needs_dh = ctx->needs_input_grad(0);
    const size_t leaves = trained_leaves(held.projection).size();
    if (!grads[0].defined()) return followed_by({through}, std::vector<at::Tensor>(has_gain + leaves + 3));
    const at::Tensor g = norm.current_weight();
    const at::Tensor x = held.projection.trains() ? rms_norm(h, g, norm.eps, nullptr) : at::Tensor();
    ProjectionGradient gradient = project_backward(grads[0].contiguous(), x, held.projection, held.pass,
                                                   at::TensorList(saved).slice(2), needs_dh || has_gain);
    variable_list result(1);
    if (needs_dh || has_gain) {
      auto [dh, dg] =
          rms_norm_backward(gradient.dx, h, g, rstd, through.defined() ? through.contiguous() : through, has_gain);
      if (needs_dh) result[0] = dh;
      if (has_gain) result.push_back(dg);
    }
    return followed_by(followed_by(std::move(result), std::move(gradient.leaves)), std::vector<at::Tensor>(3));
  }
};

at::Tensor swiglu(const at::Tensor& gate_up) {
  const int64_t k = gate_up.size(1) / 2;
  at::Tensor y = at::empty({gate_up.size(0), k}, gate_up.options());
  with_dtype(gate_up.scalar_type(), [&]<class T>(T) {
    for_rows(gate_up.size(0), k, [&](int64_t begin, int64_t end) {
      cpu::loops().of<T>().swiglu(const_data<T>(gate_up) + begin * 2 * k, end - begin, k, data<T>(y) + begin * k);
    });
  });
  return y;
}

at::Tensor swiglu_backward(const at::Tensor& dy, const at::Tensor& gate_up) {
  const int64_t k = dy.size(1);
  at::Tensor d = at::empty_like(gate_up);
  with_dtype(gate_up.scalar_type(), [&]<class T>(T) {
    for_rows(gate_up.size(0), k, [&](int64_t begin, int64_t end) {
      cpu::loops().of<T>().swiglu_backward(const_data<T>(dy) + begin * k, const_data<T>(gate_up) + begin * 2 * k,
                                           end - begin, k, data<T>(d) + begin * 2 * k);
    });
  });
  return d;
}

// y = residual + projection(x), where x is the input itself or silu(gate) * up of it.
template <bool kSwiglu>
struct ProjectAdd : Function<ProjectAdd<kSwiglu>> {
  static at::Tensor forward(AutogradContext* ctx, at::TensorList inputs, Projection& projection, const Pass& pass) {
    const at::Tensor &input = inputs[0], &residual = inputs[1];
    std::vector<at::Tensor> s;
    at::Tensor y = project(kSwiglu ? swiglu(input) : input, projection, pass, &s).add_(residual);
    hold(ctx, projection, nullptr, pass);
    const bool keep = kSwiglu || projection.trains();
    ctx->save_for_backward(followed_by({keep ? input : at::Tensor()}, followed_by(s, inputs.slice(2).vec())));
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const Held& held = ops::held(ctx);
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& input = saved[0];
    if (!grads[0].defined()) return variable_list(4 + trained_leaves(held.projection).size());
    const at::Tensor dy = grads[0].contiguous();
    const at::Tensor x = !held.projection.trains() ? at::Tensor() : kSwiglu ? swiglu(input) : input;
    const bool needs_input = ctx->needs_input_grad(0);
    ProjectionGradient gradient =
        project_backward(dy, x, held.projection, held.pass, at::TensorList(saved).slice(1), needs_input);
    at::Tensor d_input = gradient.dx;
    if (kSwiglu && needs_input) d_input = swiglu_backward(gradient.dx, input);
    return followed_by(followed_by({d_input, grads[0]}, std::move(gradient.leaves)), std::vector<at::Tensor>(2));
  }
};

template <bool kSwiglu>
at::Tensor project_add_as(const at::Tensor& input, Projection& projection, const at::Tensor& residual,
                          const Pass& pass) {
  const int64_t features = kSwiglu ? input.size(1) / 2 : input.size(1);
  RANKFOLD_CHECK(features == projection.in_features(), "project_add: expected ", projection.in_features(),
                 " features, got ", features);
  RANKFOLD_CHECK(input.is_contiguous() && residual.is_contiguous(), "project_add: inputs must be contiguous, got ",
                 input.strides(), " and ", residual.strides());
  const variable_list inputs = followed_by({input, residual}, trained_leaves(projection));
  return ProjectAdd<kSwiglu>::apply(at::TensorList(inputs), projection, pass);
}

}  // namespace

std::pair<at::Tensor, at::Tensor> norm_project(const at::Tensor& h, Norm& norm, Projection& projection,
                                               const Pass& pass) {
  RANKFOLD_CHECK(h.is_contiguous(), "norm_project: h must be contiguous, got strides ", h.strides());
  RANKFOLD_CHECK(h.size(1) == projection.in_features(), "norm_project: expected ", projection.in_features(),
                 " features, got ", h.size(1));
  variable_list inputs{h};
  if (norm.master.defined()) inputs.push_back(norm.master);
  inputs = followed_by(std::move(inputs), trained_leaves(projection));
  const variable_list out = NormProject::apply(at::TensorList(inputs), norm, projection, pass);
  return {out[0], out[1]};
}

at::Tensor project_add(const at::Tensor& x, Projection& projection, const at::Tensor& residual, const Pass& pass) {
  return project_add_as<false>(x, projection, residual, pass);
}

at::Tensor swiglu_project_add(const at::Tensor& gate_up, Projection& projection, const at::Tensor& residual,
                              const Pass& pass) {
  return project_add_as<true>(gate_up, projection, residual, pass);
}

}  // namespace rankfold::ops
