// Every op against its definition in double: results and every gradient. Compiled twice: for the CPU path (float32,
// bfloat16 and double, there also against finite differences) and, as fused_tests, for the kernels (float32, bfloat16,
// float16).
#include "core/check.h"
#include "ops/support.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

namespace rankfold {
namespace {

using Tensors = std::vector<at::Tensor>;

// One op with its inputs in some dtype: run gives its outputs, leaves what gradients are taken of.
struct Problem {
  Tensors leaves;
  std::function<Tensors()> run, reference;
};
struct Case {
  std::string name;
  std::function<Problem(at::ScalarType)> make;
};

// Sum of outputs times fixed weights: a scalar whose gradient touches every output element.
at::Tensor weigh(const Tensors& outputs) {
  const auto options = outputs[0].options().dtype(at::kDouble);
  at::Tensor sum = at::zeros({}, options);
  for (size_t i = 0; i < outputs.size(); ++i) {
    const at::Tensor w = at::cos(at::arange(outputs[i].numel(), options) * 0.7 + static_cast<double>(i));
    sum = sum + (outputs[i].to(at::kDouble).flatten() * w.to(at::kBFloat16).to(at::kDouble)).sum();
  }
  return sum;
}
Tensors gradients(const Problem& p, const Tensors& outputs) {
  Tensors grads = torch::autograd::grad({weigh(outputs)}, p.leaves, {}, false, false, true);
  for (size_t i = 0; i < grads.size(); ++i)
    if (!grads[i].defined()) grads[i] = at::zeros_like(p.leaves[i]);
  return grads;
}

// The rule itself: what is rounded to the dtype passes; a scale that is a little wrong does not, in 16 bits also where
// the worst element alone would not tell.
TEST(Parity, SeesAWrongScale) {
  struct Wrong {
    at::ScalarType dtype;
    double scale;
  };
  at::manual_seed(3);
  const at::Tensor exact = at::randn({9, 40}, at::kDouble);
  for (const bool tensor_cores : {false, true})
    for (const Wrong& wrong : {Wrong{at::kBFloat16, 1.01}, {at::kHalf, 1.0015}, {at::kFloat, 1 + 4e-6}}) {
      const at::Tensor plain = exact.to(wrong.dtype);
      const auto parity = [&](double scale) {
        return parity_of((exact * scale).to(wrong.dtype), plain, exact, wrong.dtype, tensor_cores);
      };
      const std::string what = join(c10::toString(wrong.dtype), tensor_cores ? " on tensor cores" : "");
      EXPECT_TRUE(parity(1).holds()) << what;
      for (const double scale : {wrong.scale, 2 - wrong.scale}) {
        EXPECT_FALSE(parity(scale).holds()) << what << ", scale " << scale;
        if (wrong.dtype == at::kFloat) continue;
        EXPECT_LE(parity(scale).error, parity(scale).error_limit) << what << ": the scale alone must tell";
      }
      at::Tensor broken = plain.clone();
      broken[3][5] = std::numeric_limits<double>::quiet_NaN();
      EXPECT_FALSE(parity_of(broken, plain, exact, wrong.dtype, tensor_cores).holds()) << what;
    }
}

bool by_kernels() { return ops::backend_of(test_device.type()) != nullptr; }

void check_case(const Case& c) {
  at::manual_seed(1);
  const Problem exact = c.make(at::kDouble);
  const Tensors exact_out = exact.reference(), exact_grads = gradients(exact, exact_out);
  const at::ScalarType third = by_kernels() ? at::kHalf : at::kDouble;
  for (at::ScalarType dtype : {at::kFloat, at::kBFloat16, third}) {
    at::manual_seed(1);
    const Problem p = c.make(dtype);
    const std::string what = c.name + " " + c10::toString(dtype);
    const Tensors ours = p.run(), plain = p.reference();
    const Tensors our_grads = gradients(p, ours), plain_grads = gradients(p, plain);
    for (size_t i = 0; i < exact_out.size(); ++i)
      expect_parity(ours[i], plain[i], exact_out[i], dtype, what + " output " + std::to_string(i));
    for (size_t i = 0; i < exact_grads.size(); ++i)
      if (exact_grads[i].abs().max().item<double>() > 0)
        expect_parity(our_grads[i], plain_grads[i], exact_grads[i], dtype, what + " gradient " + std::to_string(i));
    const Tensors again = p.run();
    for (size_t i = 0; i < ours.size(); ++i)
      EXPECT_TRUE(ours[i].equal(again[i])) << what << ": other bytes when repeated";
  }
  if (by_kernels()) return;
  // Finite differences of the op itself, in double.
  for (size_t i = 0; i < exact.leaves.size(); ++i) {
    at::Tensor flat = exact.leaves[i].detach().view(-1);
    const at::Tensor analytic = gradients(exact, exact.run())[i].flatten();
    for (int64_t j = 0; j < flat.numel(); j += std::max<int64_t>(1, flat.numel() / 5)) {
      const double value = flat[j].item<double>(), step = 1e-5;
      flat[j].fill_(value + step);
      const double up = weigh(exact.run()).item<double>();
      flat[j].fill_(value - step);
      const double down = weigh(exact.run()).item<double>();
      flat[j].fill_(value);
      const double numeric = (up - down) / (2 * step);
      EXPECT_NEAR(analytic[j].item<double>(), numeric, 1e-6 * std::max(1.0, std::abs(numeric)))
          << c.name << " leaf " << i << " element " << j;
    }
  }
}

at::Tensor input(at::IntArrayRef shape, at::ScalarType dtype) {
  return random(shape).to(at::kBFloat16).to(test_device, dtype).requires_grad_(true);
}

void add_leaves(Tensors& leaves, const Projection& p) {
  for (const Module& m : p.modules)
    if (m.master.defined()) leaves.push_back(m.master);
  for (const LowRank& u : p.updates) leaves.insert(leaves.end(), {u.a, u.b});
}

enum class Kind { kNorm, kPlain, kGlu, kLoss };

// What Gemma has and LLaMA has not.
struct Traits {
  bool residual = true;
  double gain_offset = 0, soft_cap = 0;
  Activation activation = Activation::silu;
};

Case projection_case(const std::string& name, Kind kind, Shape shape, bool full, Traits traits = {}) {
  return {
      name, [=](at::ScalarType dtype) {
        const Layout layout = make_layout(shape.lengths);
        const int64_t t = layout.offsets.back();
        Projection exact = make_projection(shape, full);
        round_all(exact);
        auto projection = std::make_shared<Projection>(cast(exact, dtype));
        auto norm = std::make_shared<Norm>();
        const at::Tensor gain = (random({shape.k}, 0.2) + 1 - traits.gain_offset).to(at::kBFloat16).to(at::kDouble);
        norm->gain_offset = traits.gain_offset;
        norm->weight = gain.to(test_device, dtype);
        if (full) norm->master = leaf_of(gain, dtype);
        const Pass pass = make_pass(layout, shape.dropout);
        const at::Tensor x = input({t, kind == Kind::kGlu ? 2 * shape.k : shape.k}, dtype);
        const at::Tensor residual = traits.residual ? input({t, projection->out_features()}, dtype) : at::Tensor();
        const auto add = [residual](const at::Tensor& y) { return residual.defined() ? residual + y : y; };
        const at::Tensor labels = at::randint(-2, projection->out_features(), {t}, at::kLong).clamp_min(-1) * 1;
        const at::Tensor marked = labels.masked_fill(labels.eq(-1), -100);
        Problem p;
        p.leaves = {x};
        const bool normed = kind == Kind::kNorm || kind == Kind::kLoss;
        if (!normed && residual.defined()) p.leaves.push_back(residual);
        if (full && normed) p.leaves.push_back(norm->master);
        add_leaves(p.leaves, *projection);
        const auto gain_of = [norm] {
          return (norm->master.defined() ? norm->master.to(norm->weight.scalar_type()) : norm->weight) +
                 norm->gain_offset;
        };
        switch (kind) {
          case Kind::kNorm:
            p.run = [=]() -> Tensors {
              const auto [y, h] = ops::norm_project(x, *norm, *projection, pass);
              return {y, h * 0.5};
            };
            p.reference = [=]() -> Tensors {
              return {ops::reference::project(ops::reference::rms_norm(x, gain_of(), norm->eps), *projection, pass),
                      x * 0.5};
            };
            break;
          case Kind::kPlain:
            p.run = [=]() -> Tensors { return {ops::project_add(x, *projection, residual, pass)}; };
            p.reference = [=]() -> Tensors { return {add(ops::reference::project(x, *projection, pass))}; };
            break;
          case Kind::kGlu:
            p.run = [=]() -> Tensors {
              return {ops::glu_project_add(x, traits.activation, *projection, residual, pass)};
            };
            p.reference = [=]() -> Tensors {
              return {add(ops::reference::project(ops::reference::glu(x, traits.activation), *projection, pass))};
            };
            break;
          case Kind::kLoss:
            p.run = [=]() -> Tensors {
              return {ops::norm_head_loss(x, *norm, *projection, marked, pass, traits.soft_cap) / 300};
            };
            p.reference = [=]() -> Tensors {
              const at::Tensor z =
                  ops::reference::project(ops::reference::rms_norm(x, gain_of(), norm->eps), *projection, pass);
              return {ops::reference::cross_entropy(ops::reference::cap(z, traits.soft_cap), marked.to(test_device)) /
                      300};
            };
            break;
        }
        return p;
      }};
}

Case norm_add_case(const std::string& name, int64_t tokens, int64_t k, double gain_offset, bool trains) {
  return {name, [=](at::ScalarType dtype) {
            const at::Tensor y = input({tokens, k}, dtype), residual = input({tokens, k}, dtype);
            const at::Tensor gain = (random({k}, 0.2) + 1 - gain_offset).to(at::kBFloat16).to(at::kDouble);
            const auto norm = std::make_shared<Norm>();
            norm->gain_offset = gain_offset;
            norm->weight = gain.to(test_device, dtype);
            if (trains) norm->master = leaf_of(gain, dtype);
            Problem p;
            p.leaves = {y, residual};
            if (trains) p.leaves.push_back(norm->master);
            p.run = [=]() -> Tensors { return {ops::norm_add(y, *norm, residual, norm)}; };
            p.reference = [=]() -> Tensors {
              const at::Tensor g = (trains ? norm->master.to(dtype) : norm->weight) + gain_offset;
              return {residual + ops::reference::rms_norm(y, g, norm->eps)};
            };
            return p;
          }};
}

enum class HeadNorms { none, frozen, trained };

Case attention_case(const std::string& name, std::vector<int64_t> lengths, const AttentionSpec& spec,
                    HeadNorms head_norms = HeadNorms::none) {
  return {name, [=](at::ScalarType dtype) {
            const Layout layout = make_layout(lengths);
            const Rope rope = make_rope(*std::max_element(lengths.begin(), lengths.end()), spec.rotary / 2);
            const at::Tensor qkv = input({layout.offsets.back(), spec.heads.features()}, dtype);
            Problem p;
            p.leaves = {qkv};
            const auto q_norm = std::make_shared<Norm>(), k_norm = std::make_shared<Norm>();
            QkNorms norms;
            if (head_norms != HeadNorms::none) {
              norms = {q_norm.get(), k_norm.get()};
              for (Norm* norm : {norms.q, norms.k}) {
                const at::Tensor gain = (1 + random({spec.heads.size}, 0.2)).to(at::kBFloat16).to(at::kDouble);
                norm->eps = 1e-5;
                norm->weight = gain.to(test_device, dtype);
                if (head_norms == HeadNorms::frozen) continue;
                norm->master = leaf_of(gain, dtype);
                p.leaves.push_back(norm->master);
              }
            }
            p.run = [=]() -> Tensors {
              return {ops::attend(qkv, spec, rope, layout.positions, {layout.offsets, test_device}, norms,
                                  std::make_shared<std::array<std::shared_ptr<Norm>, 2>>(std::array{q_norm, k_norm}))};
            };
            p.reference = [=]() -> Tensors {
              const std::array kept{q_norm, k_norm};
              return {ops::reference::attend(qkv, spec, rope, layout.positions, {layout.offsets, test_device}, norms)};
            };
            return p;
          }};
}

AttentionSpec with_window(AttentionSpec spec, int64_t window) {
  spec.window = window;
  return spec;
}
AttentionSpec with_soft_cap(AttentionSpec spec, double soft_cap) {
  spec.soft_cap = soft_cap;
  return spec;
}
AttentionSpec with_slopes(AttentionSpec spec) {
  spec.rotary = 0;
  spec.slopes = at::pow(2.0, -0.5 * at::arange(spec.heads.query)).to(at::kFloat);
  return spec;
}
AttentionSpec with_rotary(AttentionSpec spec, int64_t rotary) {
  spec.rotary = rotary;
  return spec;
}

TEST(Ops, NormProject) {
  check_case(projection_case("one module", Kind::kNorm, {{50, 1, 90}, 48, 4, {96}}, false));
  check_case(projection_case("three modules, dropout", Kind::kNorm, {{70, 3}, 40, 16, {40, 8, 8}, 0.3}, false));
  check_case(projection_case("odd sizes, dropout", Kind::kNorm, {{3, 2}, 37, 1, {11, 13}, 0.05}, false));
  check_case(projection_case("more than a tile", Kind::kNorm, {{130}, 1030, 36, {777, 515}, 0.1}, false));
  check_case(projection_case("frozen", Kind::kNorm, {{6}, 24, 0, {24}}, false));
  check_case(projection_case("full", Kind::kNorm, {{66, 6}, 24, 0, {24, 12}}, true));
  check_case(projection_case("1 + weight", Kind::kNorm, {{66, 6}, 24, 4, {24, 12}, 0.1}, false, {.gain_offset = 1}));
  check_case(projection_case("full, 1 + weight", Kind::kNorm, {{66, 6}, 24, 0, {24, 12}}, true, {.gain_offset = 1}));
}
TEST(Ops, NormAdd) {
  check_case(norm_add_case("frozen", 70, 24, 0, false));
  check_case(norm_add_case("trains", 70, 24, 0, true));
  check_case(norm_add_case("1 + weight, odd size", 3, 37, 1, false));
  check_case(norm_add_case("1 + weight, trains", 130, 40, 1, true));
}
TEST(Ops, ProjectAdd) {
  check_case(projection_case("one module", Kind::kPlain, {{5, 1, 9}, 48, 4, {32}, 0.1}, false));
  check_case(projection_case("frozen", Kind::kPlain, {{4}, 17, 0, {19}}, false));
  check_case(projection_case("full", Kind::kPlain, {{4, 4}, 17, 0, {19}}, true));
  check_case(projection_case("alone", Kind::kPlain, {{5, 9}, 48, 4, {32}, 0.1}, false, {.residual = false}));
  check_case(projection_case("full, alone", Kind::kPlain, {{4, 4}, 17, 0, {19}}, true, {.residual = false}));
}
TEST(Ops, GluProjectAdd) {
  check_case(projection_case("one module", Kind::kGlu, {{5, 12}, 56, 8, {32}, 0.1}, false));
  check_case(projection_case("frozen", Kind::kGlu, {{4}, 17, 0, {19}}, false));
  check_case(projection_case("full", Kind::kGlu, {{4, 4}, 17, 0, {19}}, true));
  const Traits gelu{.activation = Activation::gelu_tanh};
  check_case(projection_case("GELU", Kind::kGlu, {{5, 12}, 56, 8, {32}, 0.1}, false, gelu));
  check_case(projection_case("GELU, full", Kind::kGlu, {{4, 4}, 17, 0, {19}}, true, gelu));
  check_case(projection_case("GELU, alone", Kind::kGlu, {{4, 4}, 17, 4, {19}}, false,
                             {.residual = false, .activation = Activation::gelu_tanh}));
}
TEST(Ops, NormHeadLoss) {
  check_case(projection_case("frozen head", Kind::kLoss, {{30, 9}, 24, 0, {67}}, false));
  check_case(projection_case("more than a chunk", Kind::kLoss, {{300, 9}, 24, 0, {33}}, false));
  check_case(projection_case("adapted head, dropout", Kind::kLoss, {{20, 9}, 24, 4, {67}, 0.2}, false));
  check_case(projection_case("full", Kind::kLoss, {{280}, 16, 0, {29}}, true));
  const Traits capped{.gain_offset = 1, .soft_cap = 1.5};
  check_case(projection_case("capped", Kind::kLoss, {{300, 9}, 24, 4, {67}}, false, capped));
  check_case(projection_case("full, capped", Kind::kLoss, {{280}, 16, 0, {29}}, true, capped));
}
TEST(Ops, Attend) {
  check_case(attention_case("heads", {7, 1, 33}, Heads{4, 4, 8}));
  check_case(attention_case("grouped heads", {5, 66}, Heads{6, 2, 16}));
  check_case(attention_case("many blocks of rows", {1, 290}, Heads{4, 2, 20}));
}
TEST(Ops, AttendInAWindow) {
  check_case(attention_case("shorter than a block", {7, 1, 150}, with_window(Heads{4, 2, 8}, 5)));
  check_case(attention_case("longer than a block", {200, 70}, with_window(Heads{2, 1, 16}, 100)));
  check_case(attention_case("of one token", {5, 70}, with_window(Heads{2, 2, 8}, 1)));
  check_case(attention_case("longer than the rows", {5, 70}, with_window(Heads{2, 2, 8}, 1000)));
}
TEST(Ops, AttendWithOtherScores) {
  check_case(attention_case("soft cap", {7, 80}, with_soft_cap(Heads{4, 2, 8}, 1.5)));
  check_case(attention_case("slopes", {7, 80}, with_slopes(Heads{6, 3, 9})));
  AttentionSpec all = with_window(with_soft_cap(with_slopes(Heads{4, 2, 8}), 2), 30);
  all.scale = 0.8;
  check_case(attention_case("slopes, soft cap, window, scale", {7, 80}, all));
}
TEST(Ops, AttendWithPreparedHeads) {
  check_case(attention_case("some features turned", {7, 30}, with_rotary(Heads{4, 2, 12}, 8)));
  AttentionSpec grouped = Heads{6, 2, 12};
  grouped.is_grouped = true;
  check_case(attention_case("in groups", {7, 30}, grouped));
  check_case(attention_case("in groups, some features turned", {5}, with_rotary(grouped, 4)));
  check_case(attention_case("normalised", {7, 30}, Heads{4, 2, 16}, HeadNorms::frozen));
  check_case(attention_case("norms train", {7, 70}, Heads{4, 1, 20}, HeadNorms::trained));
  check_case(attention_case("normalised, not turned", {7, 3}, with_slopes(Heads{2, 2, 8}), HeadNorms::trained));
}

TEST(Ops, NoLabelsGiveNoLoss) {
  Projection head = cast(make_projection({{3}, 8, 0, {11}}, false), at::kFloat);
  Norm norm;
  norm.weight = at::ones({8}, test_device);
  const at::Tensor h = at::randn({3, 8}, test_device).requires_grad_(true);
  const at::Tensor loss = ops::norm_head_loss(h, norm, head, at::full({3}, -100, at::kLong), {});
  EXPECT_EQ(loss.item<float>(), 0);
  loss.backward();
  EXPECT_EQ(h.grad().abs().max().item<float>(), 0);
}

TEST(Ops, RefuseWhatTheyCannotDo) {
  Projection p = cast(make_projection({{3}, 8, 2, {8}}, false), at::kFloat);
  Norm norm;
  norm.weight = at::ones({8}, test_device);
  EXPECT_THROW(ops::norm_project(at::randn({8, 3}, test_device).t(), norm, p, {}), std::invalid_argument);
  EXPECT_THROW(ops::norm_project(at::randn({3, 9}, test_device), norm, p, {}), std::invalid_argument);
  EXPECT_THROW(ops::project_add(at::randn({3, 9}, test_device), p, at::randn({3, 8}, test_device), {}),
               std::invalid_argument);
  EXPECT_THROW(ops::norm_head_loss(at::randn({3, 8}, test_device), norm, p, at::full({3}, 8, at::kLong), {}),
               std::invalid_argument);
  EXPECT_THROW(ops::norm_project(at::randn({3, 8}, test_device).to(at::kInt), norm, p, {}), std::exception);
}

TEST(Ops, AnOptimizerStepBetweenForwardAndBackwardIsAnError) {
  Projection p = cast(make_projection({{3}, 8, 2, {8}}, false), at::kFloat);
  Norm norm;
  norm.weight = at::ones({8}, test_device);
  const at::Tensor y = ops::norm_project(at::randn({3, 8}, test_device), norm, p, {}).first.sum();
  {
    at::NoGradGuard no_grad;
    p.updates[0].a.add_(1);
  }
  EXPECT_THROW(y.backward(), std::exception);
}

TEST(Ops, LowPrecisionCopiesFollowTheirLeaves) {
  Projection p = cast(make_projection({{3}, 8, 2, {8}}, false), at::kBFloat16);
  const at::Tensor x = at::randn({3, 8}, test_device).to(at::kBFloat16),
                   zero = at::zeros({3, 8}, at::TensorOptions(test_device).dtype(at::kBFloat16));
  at::NoGradGuard no_grad;
  const at::Tensor before = ops::project_add(x, p, zero, {});
  p.updates[0].b.mul_(3);
  EXPECT_FALSE(ops::project_add(x, p, zero, {}).equal(before));
}

TEST(Dropout, MaskDependsOnItsCountersAlone) {
  const Layout whole = make_layout({4, 6, 3});
  const at::Tensor mask = dropout_mask(5, 2, 1, whole.rows, whole.positions, 200, 0.25);
  const at::Tensor part = dropout_mask(5, 2, 1, whole.rows.narrow(0, 4, 6), whole.positions.narrow(0, 4, 6), 200, 0.25);
  EXPECT_TRUE(mask.narrow(0, 4, 6).equal(part));
  EXPECT_FALSE(mask.equal(dropout_mask(6, 2, 1, whole.rows, whole.positions, 200, 0.25)));
  EXPECT_FALSE(mask.equal(dropout_mask(5, 3, 1, whole.rows, whole.positions, 200, 0.25)));
  EXPECT_FALSE(mask.equal(dropout_mask(5, 2, 2, whole.rows, whole.positions, 200, 0.25)));
  // Features do not depend on how many there are.
  EXPECT_TRUE(mask.narrow(1, 0, 37).equal(dropout_mask(5, 2, 1, whole.rows, whole.positions, 37, 0.25)));
}

TEST(Dropout, KeepsTheRightShare) {
  const at::Tensor rows = at::zeros({1000}, at::kInt), positions = at::arange(1000, at::kInt);
  for (double p : {0.05, 0.1, 0.5, 0.9}) {
    const at::Tensor mask = dropout_mask(1, 0, 0, rows, positions, 512, p);
    const double dropped = mask.eq(0).to(at::kDouble).mean().item<double>();
    EXPECT_NEAR(dropped, p, 5 * std::sqrt(p * (1 - p) / 512000));
    EXPECT_NEAR(mask.mean().item<double>(), 1, 5 * std::sqrt(p / (1 - p) / 512000));
    EXPECT_EQ(mask.max().item<float>(), 65536.0f / (65536 - std::lround(p * 65536)));
  }
}

// Philox as its paper writes it.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, uint64_t seed) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    const uint64_t a = uint64_t{0xD2511F53u} * counter[0], b = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ k0, static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ k1, static_cast<uint32_t>(a)};
  }
  return counter;
}

struct MaskCase {
  int64_t step, module;
  uint32_t block, stream;  // of its counters
};

// The first eleven are what masks have always been drawn by: a resumed run draws the same again.
const MaskCase kMaskCases[] = {
    {0, 0, 0, 0},
    {0, 1, 0, 1},
    {0, 4095, 0, 4095},
    {1, 0, 0, 4096},
    {1, 1, 0, 4097},
    {2, 0, 0, 8192},
    {2, 7, 0, 8199},
    {40000, 223, 0, 163840223},
    {(1 << 20) - 1, 0, 0, 0xfffff000u},
    {(1 << 20) - 1, 1, 0, 0xfffff001u},
    {(1 << 20) - 1, 4095, 0, 0xffffffffu},
    {0, 4096, 1u << 17, 0},
    {0, 4097, 1u << 17, 1},
    {1, 4096, 1u << 17, 4096},
    {0, 65535, 15u << 17, 4095},
    {1 << 20, 0, 1u << 21, 0},
    {1 << 20, 1, 1u << 21, 1},
    {(1 << 20) + 1, 0, 1u << 21, 4096},
    {1 << 20, 4096, 1u << 21 | 1u << 17, 0},
    {(int64_t{1} << 31) - 1, 65535, 2047u << 21 | 15u << 17, 0xffffffffu},
};

TEST(Dropout, MasksAreThoseOfTheirDefinition) {
  constexpr uint64_t kSeed = 0x1234567890abcdefu;
  constexpr int64_t kFeatures = 1100;
  constexpr double kDrop = 0.25;
  const Layout layout = make_layout({3, 2}, 5);
  for (const MaskCase& c : kMaskCases) {
    const at::Tensor mask = dropout_mask(kSeed, c.step, c.module, layout.rows, layout.positions, kFeatures, kDrop);
    const auto kept = mask.accessor<float, 2>();
    const at::Tensor rows = layout.rows.cpu(), positions = layout.positions.cpu();
    const auto row = rows.accessor<int32_t, 1>();
    const auto position = positions.accessor<int64_t, 1>();
    int64_t wrong = 0;
    for (int64_t t = 0; t < mask.size(0); ++t)
      for (int64_t k = 0; k < kFeatures; ++k) {
        const auto words = philox({static_cast<uint32_t>(row[t]), static_cast<uint32_t>(position[t]),
                                   c.block + static_cast<uint32_t>(k / 8), c.stream},
                                  kSeed);
        const uint32_t draw = words[static_cast<size_t>(k % 8 / 2)] >> (k % 2 * 16) & 0xffffu;
        wrong += kept[t][k] != (draw < 16384 ? 0.0f : static_cast<float>(1 / (1 - kDrop)));
      }
    EXPECT_EQ(wrong, 0) << "step " << c.step << ", module " << c.module;
  }
}

TEST(Dropout, NoTwoModulesAndStepsShareAMask) {
  const Layout layout = make_layout({2});
  std::vector<at::Tensor> masks;
  for (const MaskCase& c : kMaskCases)
    masks.push_back(dropout_mask(3, c.step, c.module, layout.rows, layout.positions, 256, 0.5));
  for (size_t i = 0; i < masks.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      EXPECT_FALSE(masks[i].equal(masks[j]))
          << "step " << kMaskCases[i].step << ", module " << kMaskCases[i].module << " and step " << kMaskCases[j].step
          << ", module " << kMaskCases[j].module;
  // The blocks of the widest input end where the bits of module and step begin.
  const at::Tensor one = layout.rows.narrow(0, 0, 1), at = layout.positions.narrow(0, 0, 1);
  const at::Tensor widest = dropout_mask(3, 0, 0, one, at, 1 << 20, 0.5),
                   beside = dropout_mask(3, 0, 4096, one, at, 256, 0.5);
  EXPECT_FALSE(widest.narrow(1, (1 << 20) - 256, 256).equal(beside));
}

TEST(Dropout, CountersBeyondTheirBitsAreRefused) {
  const at::Tensor zero = at::zeros({1}, at::kInt);
  const auto draws = [&](int64_t step, int64_t module, int64_t features) {
    return dropout_mask(1, step, module, zero, zero, features, 0.5);
  };
  EXPECT_THROW(draws(int64_t{1} << 31, 0, 8), std::invalid_argument);
  EXPECT_THROW(draws(-1, 0, 8), std::invalid_argument);
  EXPECT_THROW(draws(0, 1 << 16, 8), std::invalid_argument);
  EXPECT_THROW(draws(0, -1, 8), std::invalid_argument);
  EXPECT_THROW(draws(0, 0, (1 << 20) + 8), std::invalid_argument);
}

// All that reads a mask: both passes of a projection, in the loops of the CPU or in the kernels.
TEST(Dropout, OpsDrawTheMasksOfLateStepsAndModules) {
  for (const MaskCase& c : kMaskCases) {
    const Layout layout = make_layout({5, 4});
    Projection p = cast(make_projection({{6}, 40, 3, {6}}, false), at::kFloat);
    p.updates[0].index = c.module;
    Pass pass = make_pass(layout, 0.5);
    pass.step = c.step;
    at::Tensor x = at::randn({9, 40}, test_device).requires_grad_();
    const at::Tensor residual = at::zeros({9, 6}, test_device), dy = at::randn({9, 6}, test_device);
    std::vector<at::Tensor> inputs{x, p.updates[0].a, p.updates[0].b};
    const auto results = [&](const at::Tensor& y) {
      std::vector<at::Tensor> all = torch::autograd::grad({y}, inputs, {dy});
      all.push_back(y);
      return all;
    };
    const auto ours = results(ops::project_add(x, p, residual, pass));
    const auto expected = results(ops::reference::project(x, p, pass));
    for (size_t i = 0; i < ours.size(); ++i)
      EXPECT_TRUE(at::allclose(ours[i], expected[i], 1e-3, 1e-3))
          << "step " << c.step << ", module " << c.module << ", result " << i;
  }
}

// Known answer of Random123's kat_vectors for philox4x32-10 with zero counter and key: 6627e8d5 e169c58d bc57ac4c
// 9b00dbd8.
TEST(Dropout, IsPhilox) {
  const at::Tensor zero = at::zeros({1}, at::kInt);
  const uint32_t words[] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
  for (int64_t draw = 0; draw < 8; ++draw) {
    const uint32_t value = words[draw / 2] >> (16 * (draw % 2)) & 0xffff;
    const auto kept = [&](uint32_t threshold) {
      return dropout_mask(0, 0, 0, zero, zero, 8, threshold / 65536.0)[0][draw].item<float>() != 0;
    };
    EXPECT_TRUE(kept(value)) << draw;
    EXPECT_FALSE(kept(value + 1)) << draw;
  }
}

}  // namespace
}  // namespace rankfold
