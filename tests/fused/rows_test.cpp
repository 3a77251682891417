// What the kernels' branch takes and gives as rows: pitched, expanded, with spare columns for dS.
#include "ops/rows.h"
#include "fused/backend.h"
#include "ops/support.h"
#include "rankfold/rankfold.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

namespace rankfold {
namespace {

using testing::Kernels;

TEST(Rows, SpareColumnsAreTheirsAlone) {
  const at::Tensor x = ops::with_spare_columns(5, 16, at::TensorOptions(test_device));
  EXPECT_EQ(x.sizes(), at::IntArrayRef({5, 16}));
  EXPECT_TRUE(ops::has_spare_columns(x, 64));
  EXPECT_FALSE(ops::has_spare_columns(x, 72));
  {
    const at::Tensor other = x.narrow(0, 1, 2);
    EXPECT_FALSE(ops::has_spare_columns(x, 64));
  }
  EXPECT_TRUE(ops::has_spare_columns(x, 64));
  EXPECT_FALSE(ops::has_spare_columns(at::empty({5, 16}, test_device), 8));
  // Alone in its memory, but its rows are not aligned.
  EXPECT_FALSE(ops::has_spare_columns(at::empty({5, 27}, test_device).narrow(1, 0, 16).detach(), 8));
}

int64_t joined = 0;

// Without dropout dS A is a part of dX's product: [dY | dS] [W; A].
TEST(Rows, WithoutDropoutTheProductTakesTheLowRankPart) {
  if (Kernels::on_cuda) GTEST_SKIP() << "counts on the host backend";
  testing::TempFolder folder;
  testing::write_tiny_model(folder / "model", {.vocabulary = 96});
  testing::write_tiny_rows(folder / "rows.jsonl", 4, 96);
  ops::Backend counting = testing::host_backend();
  counting.kernels.input_grad = [](const kernels::InputGrad& p, kernels::Stream stream) {
    if (p.dx && p.ds_MR && !p.at_KR) ++joined;
    testing::host_backend().kernels.input_grad(p, stream);
  };
  ops::use_backend(c10::DeviceType::CUDA, &counting);
  const CausalLM model = CausalLM::load(folder / "model", {.device = "cuda", .dtype = "float32"});
  const Adapter adapter = Adapter::create(model, {.r = 8, .target_modules = "all-linear"}, 3);
  const Dataset data = Dataset::open(folder / "rows.jsonl", nullptr, {}, 96);
  joined = 0;
  model.loss(data.batch({0, 1})).backward();
  ops::use_backend(c10::DeviceType::CUDA, &testing::host_backend());
  // Two layers of four projections; the gradient that the loss gives has no spare columns, and the lowest needs no dX.
  EXPECT_EQ(joined, 6);
}

// A pooled loss hands back one row for all tokens, its stride 0.
TEST(Rows, AnExpandedGradientIsReadAsItIs) {
  std::vector<at::Tensor> gradients[2];
  for (int on = 0; on < 2; ++on) {
    const Kernels kernels(on == 1);
    at::manual_seed(5);
    Projection exact = make_projection({{5, 4}, 24, 8, {32}}, false);
    const at::Tensor h_values = random({9, 24}), w_values = random({32});
    const auto here = [&](const at::Tensor& x) { return x.to(at::Device(kernels.device()), at::kFloat); };
    Projection p = cast(exact, at::kFloat);
    p.frozen = std::make_shared<DenseWeight>(here(p.frozen->whole()));
    for (LowRank& u : p.updates) {
      u.a = here(u.a).detach().requires_grad_(true);
      u.b = here(u.b).detach().requires_grad_(true);
    }
    Norm norm;
    norm.weight = here(at::ones({24}));
    const at::Tensor h = here(h_values).requires_grad_(true);
    const at::Tensor y = ops::norm_project(h, norm, p, {}).first;
    const auto grads = torch::autograd::grad({(y.sum(0) * here(w_values)).sum()}, {h, p.updates[0].a, p.updates[0].b});
    for (const at::Tensor& g : grads) gradients[on].push_back(g.cpu());
  }
  for (size_t i = 0; i < 3; ++i)
    EXPECT_LE(worst(gradients[1][i], gradients[0][i]), 1e-5 * gradients[0][i].abs().max().item<double>()) << i;
}

}  // namespace
}  // namespace rankfold
