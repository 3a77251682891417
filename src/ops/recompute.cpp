#include "ops/recompute.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace rankfold::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Step = std::function<at::Tensor(const at::Tensor&)>;

struct SavedStep : torch::CustomClassHolder {
  explicit SavedStep(Step f) : f(std::move(f)) {}
  Step f;
};

struct Recompute : torch::autograd::Function<Recompute> {
  // `anchor` requires a gradient, so that the result does where x, as below the lowest adapter, does not.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor&, const Step& f) {
    ctx->save_for_backward({x});
    ctx->saved_data["step"] = c10::IValue::make_capsule(c10::make_intrusive<SavedStep>(f));
    ctx->set_materialize_grads(false);
    return f(x);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    if (!grads[0].defined()) return variable_list(3);
    const Step& f = static_cast<const SavedStep&>(*ctx->saved_data["step"].toCapsule()).f;
    const at::Tensor saved = ctx->get_saved_variables()[0], x = saved.detach().requires_grad_(saved.requires_grad());
    at::Tensor y;
    {
      at::AutoGradMode recorded(true);
      y = f(x);
    }
    if (!y.requires_grad()) return variable_list(3);
    torch::autograd::backward({y}, {grads[0]});
    return {x.grad(), {}, {}};
  }
};

}  // namespace

at::Tensor recompute(const at::Tensor& x, Step f) {
  if (!at::GradMode::is_enabled()) return f(x);
  return Recompute::apply(x, at::empty({0}, x.options()).requires_grad_(true), f);
}

}  // namespace rankfold::ops
