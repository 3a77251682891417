// rankfold-bench: how long each op and a whole training step take, forward and backward apart, beside
//   unfused  what transformers and PEFT do: norm, linear, dropout, A, B, scale, add, each an ATen op under autograd;
//            adapters in the model's dtype, and (fp32) as PEFT keeps them by default beside 16-bit models
//   frozen   the same op without its low-rank updates: what LoRA costs
//   products (a step on the CPU) its large matrix products alone, at the same shapes: the floor that they set
//   floor    max(bytes / bandwidth of a copy, FLOPs / rate of the best matrix product), both measured in this run
// The variants take turns, so that a change of clock or of the machine's other work hits all alike; caches are emptied
// before each measurement. Shown are medians (and the 20 and 80 % quantiles) in ms. norm_head_loss makes its gradients
// on the way forward: compare its sums.
//
// Work that is counted: every matrix product of the op with its low-rank parts (2 FLOPs a multiply-add; attention
// causal, its backward 2.5 times its forward), and each tensor that must come or go once: weights, activations,
// gradients. A step's floor is the sum of its ops' floors.
//
// The step is the library's own: CausalLM, Adapter, AdamW on a random model folder. 7b has one layer's weights and uses
// them 32 times (with adapters of their own); a layer is far larger than any cache, so that nothing runs faster for it.
#include "core/check.h"
#include "core/process.h"
#include "model/model.h"
#include "ops/backend.h"
#include "ops/gemm.h"
#include "ops/open_cuda.h"
#include "ops/ops.h"
#include "ops/project.h"
#include "support/tiny_model.h"
#include "train/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/Event.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/version.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

namespace rankfold {
namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

constexpr int kWarmUp = 3;
constexpr int64_t kRank = 16;
constexpr double kAlpha = 32, kDropout = 0.05, kMaxNorm = 1, kRate = 1e-4;

struct ShapeSet {
  std::string name;
  testing::TinyModel model;  // layers: those with weights of their own
  int64_t layers;            // that the step runs through
  int64_t length;            // of a sequence
  std::vector<int64_t> tokens;
  bool cold;  // empties the caches
};
const std::vector<ShapeSet>& shape_sets() {
  static const std::vector<ShapeSet> sets{
      {"cpu", {.vocabulary = 32000, .hidden = 512, .inner = 1408, .layers = 8, .heads = 8}, 8, 256, {1024}, true},
      {"7b",
       {.vocabulary = 64000, .hidden = 4096, .inner = 11008, .layers = 1, .heads = 32},
       32,
       512,
       {2048, 8192},
       true},
      {"tiny", {.vocabulary = 160, .hidden = 64, .inner = 96, .layers = 1, .heads = 4}, 2, 16, {64}, false},
  };
  return sets;
}

struct Options {
  std::string device = "cpu", shapes = "cpu", dtype = "bf16", targets = "W_pack", json;
  std::vector<int64_t> tokens;
  std::vector<std::string> ops;
  int repeat = 20;
  bool markdown = false;
};

// ---- Measuring

struct Cost {
  double flops = 0, bytes = 0;
};

struct Phase {
  std::string name;
  std::function<void()> run;
};
struct Variant {
  std::string name;
  std::vector<Phase> phases;
  std::shared_ptr<Tensor> first_loss = nullptr;  // of a step: that the variants compute the same
};
// The same work in several ways, in the same phases; ours first.
struct Case {
  std::vector<std::vector<Cost>> costs;  // of each phase
  std::vector<Variant> variants;
};

class Stopwatch {
 public:
  Stopwatch(const at::Device& device, bool cold) : device_(device) {
    // Several times what a processor caches. On a GPU the host also queues the work that is measured while this runs.
    const int64_t bytes = device.is_cpu() ? int64_t{64} << 20 : int64_t{1} << 30;
    if (cold) scratch_ = at::empty({bytes}, at::TensorOptions(device).dtype(at::kByte));
  }

  double milliseconds(const std::function<void()>& f) {
    if (scratch_.defined()) scratch_.add_(1);  // not zero_(): memset writes past the caches
    if (device_.is_cpu()) {
      const auto begin = std::chrono::steady_clock::now();
      f();
      return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
    }
    const c10::Stream stream = c10::impl::VirtualGuardImpl(device_.type()).getStream(device_);
    c10::Event begin(device_.type(), c10::EventFlag::BACKEND_DEFAULT);
    c10::Event end(device_.type(), c10::EventFlag::BACKEND_DEFAULT);
    begin.record(stream);
    f();
    end.record(stream);
    end.synchronize();
    return begin.elapsedTime(end);
  }

 private:
  at::Device device_;
  Tensor scratch_;
};

struct Times {
  std::vector<double> sorted;  // ms

  explicit Times(std::vector<double> all) : sorted(std::move(all)) { std::sort(sorted.begin(), sorted.end()); }
  double quantile(double q) const {
    const double place = q * static_cast<double>(sorted.size() - 1);
    const auto below = static_cast<size_t>(place);
    const double above = sorted[std::min(below + 1, sorted.size() - 1)];
    return sorted[below] + (place - static_cast<double>(below)) * (above - sorted[below]);
  }
  double median() const { return quantile(0.5); }
};

std::string format(const char* pattern, double x) {
  char text[64];
  std::snprintf(text, sizeof text, pattern, x);
  return text;
}
std::string three_digits(double x) { return format(x < 10 ? "%.2f" : x < 100 ? "%.1f" : "%.0f", x); }
std::string flop_rate(double flops_per_ms) {
  const double tera = flops_per_ms * 1e-9;
  return tera < 1 ? three_digits(tera * 1e3) + " GFLOP/s" : three_digits(tera) + " TFLOP/s";
}
std::string byte_rate(double bytes_per_ms) { return three_digits(bytes_per_ms * 1e-6) + " GB/s"; }

// What the machine does at best: the fastest of all measurements of this run, a few of them before each case, as on a
// shared machine no single moment tells.
class Machine {
 public:
  Machine(const ShapeSet& set, int64_t tokens, const at::TensorOptions& options)
      : on_cpu_(options.device().is_cpu()),
        from_(at::ones({(set.cold ? int64_t{256} : int64_t{1}) << 20}, options.dtype(at::kByte))),
        to_(at::empty_like(from_)) {
    const int64_t hidden = set.model.hidden, inner = set.model.inner;
    for (const auto& [k, n] : {std::pair{hidden, 3 * hidden}, {hidden, 2 * inner}, {inner, hidden}})
      products_.emplace_back(at::randn({tokens, k}, options), at::randn({n, k}, options));
  }

  void observe(Stopwatch& watch) {
    const at::NoGradGuard no_grad;
    const auto keep_best = [&](double& best, double work, const std::function<void()>& f) {
      for (int i = 0; i < 3; ++i) best = std::max(best, work / watch.milliseconds(f));
    };
    keep_best(copy_, 2 * static_cast<double>(from_.numel()), [&] { to_.copy_(from_); });
    for (const auto& [x, w] : products_) {
      const double flops = 2 * static_cast<double>(x.numel() * w.size(0));
      keep_best(linear_, flops, [&x = x, &w = w] { at::linear(x, w); });
      if (on_cpu_) keep_best(ours_, flops, [&x = x, &w = w] { ops::gemm_nt(x, w); });
    }
  }
  // Whether the products, not the traffic, set the floor.
  bool computes(const std::vector<Cost>& costs) const {
    double arithmetic = 0, traffic = 0;
    for (const Cost& c : costs) arithmetic += c.flops / product(), traffic += c.bytes / copy_;
    return arithmetic > traffic;
  }
  double floor_ms(const std::vector<Cost>& costs) const {
    double ms = 0;
    for (const Cost& c : costs) ms += std::max(c.bytes / copy_, c.flops / product());
    return ms;
  }
  std::string text() const {
    return "copy " + byte_rate(copy_) + ", products: at::linear " + flop_rate(linear_) +
           (on_cpu_ ? ", ours " + flop_rate(ours_) : "");
  }

 private:
  double product() const { return std::max(linear_, ours_); }
  bool on_cpu_;
  Tensor from_, to_;
  std::vector<std::pair<Tensor, Tensor>> products_;
  double copy_ = 0, linear_ = 0, ours_ = 0;  // bytes and FLOPs a millisecond
};

// ---- What is measured against: transformers' and PEFT's sequence of ops

namespace unfused {

struct Linear {
  Tensor weight, a, b;  // a, b undefined: no update
  double scale = 0;
};
struct Layer {
  Tensor input_gain, post_gain;
  Linear qkv, o, gate, up, down;
};

Tensor project(const Tensor& x, const Linear& linear) {
  const Tensor y = at::linear(x, linear.weight);
  if (!linear.a.defined()) return y;
  const Tensor dropped = at::dropout(x.to(linear.a.scalar_type()), kDropout, /*train=*/true);
  return (y + at::linear(at::linear(dropped, linear.a), linear.b) * linear.scale).to(y.scalar_type());
}

Tensor rms_norm(const Tensor& h, const Tensor& gain, double eps) {
  const Tensor wide = h.to(at::kFloat);
  return gain * (wide * at::rsqrt(wide.pow(2).mean(-1, true) + eps)).to(h.scalar_type());
}

// cos, sin [length, head size] in the model's dtype.
Tensor attend(const Tensor& qkv, const Heads& heads, int64_t length, const Tensor& cos, const Tensor& sin) {
  const Tensor parts = qkv.view({-1, length, 3, heads.query, heads.size});
  const auto part = [&](int64_t i) { return parts.select(2, i).transpose(1, 2); };
  const auto turned = [&](const Tensor& x) {
    const auto halves = x.chunk(2, -1);
    return x * cos + at::cat({-halves[1], halves[0]}, -1) * sin;
  };
  const Tensor y =
      at::scaled_dot_product_attention(turned(part(0)), turned(part(1)), part(2), {}, /*dropout_p=*/0, /*causal=*/true);
  return y.transpose(1, 2).reshape({qkv.size(0), heads.query * heads.size});
}

Tensor mlp_input(const Tensor& gate, const Tensor& up) { return at::silu(gate) * up; }

Tensor loss(const Tensor& h, const Tensor& gain, double eps, const Tensor& head, const Tensor& labels) {
  const Tensor logits = at::linear(rms_norm(h, gain, eps), head).to(at::kFloat);
  return at::cross_entropy_loss(logits, labels, {}, at::Reduction::Sum, kIgnoreIndex);
}

// torch.nn.utils.clip_grad_norm_ and torch.optim.AdamW(fused=True) over a list of leaves.
struct Optimizer {
  Tensors leaves, first, second, steps;

  explicit Optimizer(Tensors all) : leaves(std::move(all)) {
    for (const Tensor& leaf : leaves) {
      first.push_back(at::zeros_like(leaf.detach()));
      second.push_back(at::zeros_like(leaf.detach()));
      steps.push_back(at::zeros({}, leaf.options().dtype(at::kFloat).requires_grad(false)));
    }
  }
  void clip(const Tensors& gradients) {
    const Tensor norm = at::linalg_vector_norm(at::stack(at::_foreach_norm(gradients, 2)), 2);
    at::_foreach_mul_(gradients, (kMaxNorm / (norm + 1e-6)).clamp_max(1));
  }
  void step(const Tensors& gradients) {
    const at::NoGradGuard no_grad;
    const TrainConfig config;
    at::_foreach_add_(steps, 1);
    at::_fused_adamw_(leaves, gradients, first, second, {}, steps, kRate, config.adam_beta1, config.adam_beta2,
                      config.weight_decay, config.adam_epsilon, /*amsgrad=*/false, /*maximize=*/false);
  }
};

}  // namespace unfused

// ---- The cases

class Bench {
 public:
  Bench(const Options& options, const ShapeSet& set, const std::filesystem::path& folder)
      : set_(set),
        model_(CausalLM::load(folder, {.device = options.device, .dtype = options.dtype})),
        parts_(*model_.shared_model()),
        options_(at::TensorOptions(parts_.device).dtype(parts_.dtype)) {
    share_layers();
    frozen_ = parts_.network().layers;
    for (Layer& layer : frozen_)  // as loaded: kernels lay the weights of adapted layers out anew
      for (Projection* p : layer.projections())
        if (DenseWeight* dense = p->frozen->dense()) p->frozen = std::make_shared<DenseWeight>(*dense);
    ModuleNames targets = StringList{"W_pack"};
    if (options.targets == "all-linear") targets = "all-linear";
    adapter_ = Adapter::create(model_,
                               {.r = kRank, .lora_alpha = kAlpha, .lora_dropout = kDropout, .target_modules = targets});
    const at::NoGradGuard no_grad;
    for (const Parameter& p : adapter_.named_parameters())
      if (p.name.find("lora_B") != std::string::npos) Tensor(p.value).normal_(0, 0.02);
    heads_ = {parts_.config.num_attention_heads, parts_.config.num_key_value_heads, parts_.config.head_dim};
    const Tensor frequency = at::pow(10000.0, at::arange(0, heads_.size, 2, options_.dtype(at::kFloat)) / -heads_.size);
    const Tensor angle = at::outer(at::arange(set.length, options_.dtype(at::kFloat)), frequency);
    rope_ = {angle.cos(), angle.sin()};
  }

  const at::TensorOptions& tensor_options() const { return options_; }
  int64_t parameter_count() const { return adapter_.parameter_count(); }

  void set_tokens(int64_t tokens) {
    if (tokens <= 0 || tokens % set_.length != 0)
      fail("--tokens: expected multiples of the sequence length ", set_.length, ", got ", tokens);
    std::vector<std::vector<int32_t>> ids(static_cast<size_t>(tokens / set_.length));
    std::vector<Sequence> rows;
    int64_t id = 0;
    for (std::vector<int32_t>& row : ids) {
      for (int64_t t = 0; t < set_.length; ++t)
        row.push_back(static_cast<int32_t>(id = (id + 7919) % set_.model.vocabulary));
      rows.push_back({&row, &row});
    }
    batch_ = make_batch(rows);
    pass_ = {kDropout, 1, 0, at::arange(tokens, at::kInt).div(set_.length, "floor").to(at::kInt).to(parts_.device),
             batch_.positions.to(at::kInt).to(parts_.device)};
    positions_ = batch_.positions.to(parts_.device);
    labels_ = batch_.label_count();
  }

  // Made one after the other, as each holds its inputs.
  std::vector<std::pair<std::string, std::function<Case()>>> cases() {
    const Layer& layer = network().layers[0];
    return {
        {"embed", [this] { return embed(); }},
        {"norm_project W_pack", [&, this] { return projection(Source::norm, layer.qkv, frozen_[0].qkv); }},
        {"attend", [this] { return attend(); }},
        {"project_add o_proj", [&, this] { return projection(Source::plain, layer.o, frozen_[0].o); }},
        {"norm_project gate_up", [&, this] { return projection(Source::norm, layer.gate_up, frozen_[0].gate_up); }},
        {"glu_project_add down_proj", [&, this] { return projection(Source::glu, layer.down, frozen_[0].down); }},
        {"norm_head_loss", [this] { return loss(); }},
        {"adamw", [this] { return adamw(); }},
        {"step", [this] { return step(); }},
    };
  }

 private:
  using Source = ops::Source;

  Network& network() const { return parts_.network(); }

  // Layers without weights of their own use the first one's.
  void share_layers() {
    Network network = parts_.network();
    for (auto i = static_cast<int64_t>(network.layers.size()); i < set_.layers; ++i) {
      Layer layer = network.layers[0];
      for (Projection* p : layer.projections())
        for (Module& m : p->modules) {
          m.name.replace(m.name.find(".0."), 3, "." + std::to_string(i) + ".");
          parts_.linears.push_back({m.name, m.end - m.begin, p->in_features(), false});
        }
      network.layers.push_back(std::move(layer));
    }
    parts_.config.num_hidden_layers = set_.layers;
    parts_.adapters.replace_base(std::move(network));
  }

  double tokens() const { return static_cast<double>(batch_.token_count()); }
  Tensor random(int64_t rows, int64_t columns) const { return at::randn({rows, columns}, options_); }
  Tensor leaf(int64_t columns) const { return random(batch_.token_count(), columns).requires_grad_(true); }

  // Two phases: outputs, and their gradients to the leaves for random gradients of the outputs.
  static Variant differentiated(const std::string& name, const Tensors& leaves, std::function<Tensors()> forward) {
    auto outputs = std::make_shared<Tensors>(), seeds = std::make_shared<Tensors>();
    return {name, {{"forward", [=] { *outputs = forward(); }}, {"backward", [=] {
                                                                  if (seeds->empty())  // while warming up
                                                                    for (const Tensor& y : *outputs)
                                                                      seeds->push_back(at::randn_like(y));
                                                                  torch::autograd::grad(*outputs, leaves, *seeds);
                                                                  outputs->clear();
                                                                }}}};
  }

  // Forward and backward of a projection.
  std::vector<std::vector<Cost>> costs_of(Source source, const Projection& p, bool needs_d_in = true) const {
    const double m = tokens(), k = static_cast<double>(p.in_features()), n = static_cast<double>(p.out_features());
    const double in = source == Source::glu ? 2 * m * k : m * k, element = parts_.dtype == at::kFloat ? 4 : 2;
    double low_rank = 0;
    for (const LowRank& update : p.updates)
      low_rank += 2 * m * static_cast<double>(update.rank()) * (k + static_cast<double>(update.b.size(0)));
    const bool is_norm = source == Source::norm, reads_in = source != Source::plain || p.trains();
    const Cost forward{2 * m * k * n + low_rank, (in + k * n + m * n + (is_norm ? 0 : m * n)) * element};
    const Cost backward{
        (needs_d_in ? 2 * m * k * n : 0) + 2 * low_rank,
        (m * n + (reads_in ? in : 0) + (needs_d_in ? k * n + in + (is_norm ? m * k : 0) : 0)) * element};
    return {{forward}, {backward}};
  }
  std::vector<std::vector<Cost>> attention_costs() const {
    const double h = static_cast<double>(set_.model.hidden), element = parts_.dtype == at::kFloat ? 4 : 2;
    const double flops = 2 * tokens() * static_cast<double>(set_.length) * h;
    return {{{flops, tokens() * 4 * h * element}}, {{2.5 * flops, tokens() * 8 * h * element}}};
  }
  // Our forward makes the gradients, so its backward only scales them.
  std::vector<std::vector<Cost>> loss_costs() const {
    const double h = static_cast<double>(set_.model.hidden), v = static_cast<double>(set_.model.vocabulary);
    const double element = parts_.dtype == at::kFloat ? 4 : 2, m = static_cast<double>(labels_);
    return {{{4 * m * h * v, (h * v + 2 * m * h) * element}}, {{0, 2 * tokens() * h * element}}};
  }
  std::vector<Cost> embed_cost() const {
    return {{0, tokens() * 2 * static_cast<double>(set_.model.hidden) * (parts_.dtype == at::kFloat ? 4 : 2)}};
  }
  // AdamW reads four fp32 values of a parameter and writes three; the norm reads the gradient.
  std::vector<Cost> clip_cost() const { return {{0, 4.0 * static_cast<double>(parameter_count())}}; }
  std::vector<Cost> update_cost() const { return {{0, 28.0 * static_cast<double>(parameter_count())}}; }

  Case embed() {
    const Tensor tokens = batch_.tokens.to(parts_.device);
    return {{embed_cost()},
            {{"ours", {{"forward", [=, this] { network().embedding->select_rows(tokens); }}}},
             {"unfused", {{"forward", [=, this] { at::embedding(network().embedding->whole(), tokens); }}}}}};
  }

  Case projection(Source source, const Projection& ours, const Projection& loaded) {
    const auto frozen = std::make_shared<Projection>(loaded);
    const auto with_update = std::make_shared<Projection>(ours);
    const auto norm = std::make_shared<Norm>(network().layers[0].input_norm);
    Case c{costs_of(source, ours), {}};
    const Tensor in = leaf(ours.in_features() * (source == Source::glu ? 2 : 1)), residual = leaf(ours.out_features());
    const auto variant = [&](const std::string& name, const std::shared_ptr<Projection>& p) {
      Tensors leaves = source == Source::norm ? Tensors{in} : Tensors{in, residual};
      for (const Tensor& trained : ops::trained_leaves(*p)) leaves.push_back(trained);
      c.variants.push_back(differentiated(name, leaves, [=, pass = pass_]() -> Tensors {
        if (source == Source::plain) return {ops::project_add(in, *p, residual, pass)};
        if (source == Source::glu) return {ops::glu_project_add(in, Activation::silu, *p, residual, pass)};
        const auto [y, through] = ops::norm_project(in, *norm, *p, pass);
        return {y, through};
      }));
    };
    variant("ours", with_update);
    for (const at::ScalarType adapters : adapter_dtypes(ours)) {
      Tensors leaves{in};
      if (source != Source::norm) leaves.push_back(residual);
      std::vector<unfused::Linear> linears;
      for (size_t i = 0; i < ours.modules.size(); ++i) linears.push_back(linear_of(loaded, ours, i, adapters, &leaves));
      Tensors parts;  // gate and up are tensors of their own there
      if (source == Source::glu) {
        for (int i = 0; i < 2; ++i) parts.push_back(leaf(ours.in_features()));
        leaves.erase(leaves.begin());
        leaves.insert(leaves.end(), parts.begin(), parts.end());
      }
      c.variants.push_back(differentiated(name_of(adapters), leaves, [=]() -> Tensors {
        if (source == Source::plain) return {residual + unfused::project(in, linears[0])};
        if (source == Source::glu)
          return {residual + unfused::project(unfused::mlp_input(parts[0], parts[1]), linears[0])};
        const Tensor x = unfused::rms_norm(in, norm->weight, norm->eps);
        Tensors y{in.view_as(in)};  // goes on as the residual: autograd adds its gradient up
        for (const unfused::Linear& linear : linears) y.push_back(unfused::project(x, linear));
        return y;
      }));
    }
    if (ours.has_update()) variant("frozen", frozen);
    return c;
  }

  Case attend() {
    const Tensor qkv = leaf(3 * set_.model.hidden);
    const Sequences sequences(batch_.offsets, parts_.device);
    const auto [cos, sin] = wide_rope();
    return {
        attention_costs(),
        {differentiated("ours", {qkv},
                        [=, this]() -> Tensors { return {ops::attend(qkv, heads_, rope_, positions_, sequences)}; }),
         differentiated("unfused", {qkv},
                        [=, this]() -> Tensors { return {unfused::attend(qkv, heads_, set_.length, cos, sin)}; })}};
  }

  Case loss() {
    const Tensor h = leaf(set_.model.hidden), labels = batch_.labels.to(parts_.device);
    return {
        loss_costs(),
        {differentiated("ours", {h},
                        [=, this]() -> Tensors {
                          return {ops::norm_head_loss(h, network().norm, network().head, batch_.labels, pass_)};
                        }),
         differentiated("unfused", {h}, [=, this]() -> Tensors {
           return {unfused::loss(h, network().norm.weight, network().norm.eps, network().head.frozen->whole(), labels)};
         })}};
  }

  Case adamw() {
    const auto ours = std::make_shared<AdamW>(model_, adapter_);
    adapter_.flat_gradient().normal_();
    Tensors leaves;
    for (const Tensor& leaf : adapter_.parameters()) leaves.push_back(leaf.detach().clone());
    const auto theirs = std::make_shared<unfused::Optimizer>(leaves);
    Tensors gradients;
    for (const Tensor& leaf : leaves) gradients.push_back(at::randn_like(leaf));
    return {{clip_cost(), update_cost()},
            {{"ours", {{"clip", [=] { ours->clip(kMaxNorm); }}, {"update", [=] { ours->step({}, kRate); }}}},
             {"unfused", {{"clip", [=] { theirs->clip(gradients); }}, {"update", [=] { theirs->step(gradients); }}}}}};
  }

  Case step() {
    Case c{{embed_cost(), {}, clip_cost()}, {}};
    const auto add = [&](const std::vector<std::vector<Cost>>& costs) {
      for (size_t phase = 0; phase < costs.size(); ++phase)
        c.costs[phase].insert(c.costs[phase].end(), costs[phase].begin(), costs[phase].end());
    };
    for (size_t i = 0; i < network().layers.size(); ++i) {
      const Layer& layer = network().layers[i];
      const bool trained_below = i > 0;
      add(costs_of(Source::norm, layer.qkv, trained_below));
      add(attention_costs());
      add(costs_of(Source::plain, layer.o));
      add(costs_of(Source::norm, layer.gate_up));
      add(costs_of(Source::glu, layer.down));
    }
    add(loss_costs());
    add({{}, {}, update_cost()});

    adapter_.flat_gradient().zero_();
    const auto optimizer = std::make_shared<AdamW>(model_, adapter_);
    c.variants.push_back(step_variant(
        "ours", [this] { return model_.loss(batch_); },
        [=] {
          optimizer->clip(kMaxNorm);
          optimizer->step({}, kRate);
          optimizer->zero_gradient();
        }));
    for (const at::ScalarType adapters : adapter_dtypes(network().layers[0].qkv))
      c.variants.push_back(plain_step(adapters));
    c.variants.push_back(frozen_step());
    if (parts_.device.is_cpu()) c.variants.push_back(products());
    return c;
  }

  // The same without low-rank updates, its gradients going as far down: to the output of the first layer's qkv.
  Variant frozen_step() {
    const Tensor tokens = batch_.tokens.to(parts_.device), labels = batch_.labels.to(parts_.device);
    const auto sum = [=, this] {
      const Sequences sequences(batch_.offsets, parts_.device);
      Tensor h = network().embedding->select_rows(tokens);
      for (size_t i = 0; i < network().layers.size(); ++i) {
        Layer& layer = frozen_[i];
        auto [qkv, through] = ops::norm_project(h, network().layers[i].input_norm, layer.qkv, {});
        if (i == 0) qkv = qkv.detach().requires_grad_(true);
        h = ops::project_add(ops::attend(qkv, heads_, rope_, positions_, sequences), layer.o, through, {});
        const auto [gate_up, on] = ops::norm_project(h, network().layers[i].mlp_norm, layer.gate_up, {});
        h = ops::glu_project_add(gate_up, Activation::silu, layer.down, on, {});
      }
      return ops::norm_head_loss(h, network().norm, network().head, batch_.labels, {});
    };
    return step_variant("frozen", sum, [] {});
  }

  // The step's large products alone, at its shapes and with its weights.
  Variant products() {
    const auto inputs = std::make_shared<std::map<std::pair<int64_t, int64_t>, Tensor>>();
    const auto input = [=, this](int64_t rows, int64_t columns) -> const Tensor& {
      Tensor& x = (*inputs)[{rows, columns}];
      if (!x.defined()) x = at::randn({rows, columns}, options_);
      return x;
    };
    const auto each = [=, this](const std::function<void(const Projection&, int64_t, bool)>& f) {
      for (size_t i = 0; i < frozen_.size(); ++i)
        for (const Projection* p : frozen_[i].projections()) f(*p, batch_.token_count(), i > 0 || p != &frozen_[i].qkv);
      const int64_t chunk = ops::loss_chunk(parts_.device.type());
      for (int64_t begin = 0; begin < labels_; begin += chunk)
        f(network().head, std::min(chunk, labels_ - begin), true);
    };
    return {"products",
            {{"forward",
              [=] {
                const at::NoGradGuard no_grad;
                each([&](const Projection& p, int64_t rows, bool) {
                  ops::gemm_nt(input(rows, p.in_features()), p.frozen->whole());
                });
              }},
             {"backward",
              [=] {
                const at::NoGradGuard no_grad;
                each([&](const Projection& p, int64_t rows, bool has_d_in) {
                  if (has_d_in) ops::gemm_nn(input(rows, p.out_features()), p.frozen->whole());
                });
              }},
             {"optimizer", [] {}}}};
  }

  // `sum` gives the sum of the losses of the batch.
  Variant step_variant(const std::string& name, std::function<Tensor()> sum, std::function<void()> optimizer) const {
    const auto loss = std::make_shared<Tensor>(), first = std::make_shared<Tensor>();
    const auto forward = [=, scale = 1.0 / static_cast<double>(labels_)] {
      *loss = sum() * scale;
      if (!first->defined()) *first = loss->detach();
    };
    const auto backward = [=] {
      loss->backward();
      loss->reset();
    };
    return {name, {{"forward", forward}, {"backward", backward}, {"optimizer", std::move(optimizer)}}, first};
  }

  Variant plain_step(at::ScalarType adapters) {
    const auto layers = std::make_shared<std::vector<unfused::Layer>>();
    Tensors leaves;
    for (size_t i = 0; i < network().layers.size(); ++i) {
      const Layer &ours = network().layers[i], &loaded = frozen_[i];
      const auto linear = [&](const Projection& from, const Projection& with, size_t module) {
        return linear_of(from, with, module, adapters, &leaves);
      };
      layers->push_back({ours.input_norm.weight, ours.mlp_norm.weight, linear(loaded.qkv, ours.qkv, 0),
                         linear(loaded.o, ours.o, 0), linear(loaded.gate_up, ours.gate_up, 0),
                         linear(loaded.gate_up, ours.gate_up, 1), linear(loaded.down, ours.down, 0)});
    }
    const auto optimizer = std::make_shared<unfused::Optimizer>(leaves);
    const Tensor tokens = batch_.tokens.to(parts_.device), labels = batch_.labels.to(parts_.device);
    const auto [cos, sin] = wide_rope();
    const double eps = parts_.config.rms_norm_eps;
    const auto sum = [=, this] {
      Tensor h = at::embedding(network().embedding->whole(), tokens);
      for (const unfused::Layer& layer : *layers) {
        const Tensor qkv = unfused::project(unfused::rms_norm(h, layer.input_gain, eps), layer.qkv);
        h = h + unfused::project(unfused::attend(qkv, heads_, set_.length, cos, sin), layer.o);
        const Tensor x = unfused::rms_norm(h, layer.post_gain, eps);
        const Tensor inner = unfused::mlp_input(unfused::project(x, layer.gate), unfused::project(x, layer.up));
        h = h + unfused::project(inner, layer.down);
      }
      return unfused::loss(h, network().norm.weight, eps, network().head.frozen->whole(), labels);
    };
    return step_variant(name_of(adapters), sum, [=] {
      Tensors gradients;
      for (const Tensor& leaf : optimizer->leaves) gradients.push_back(leaf.grad());
      optimizer->clip(gradients);
      optimizer->step(gradients);
      for (Tensor& leaf : optimizer->leaves) leaf.mutable_grad().reset();
    });
  }

  // In the model's dtype, and in fp32 where that differs and there is an update.
  std::vector<at::ScalarType> adapter_dtypes(const Projection& p) const {
    if (parts_.dtype == at::kFloat || !p.has_update()) return {parts_.dtype};
    return {parts_.dtype, at::kFloat};
  }
  std::string name_of(at::ScalarType adapters) const {
    return adapters == parts_.dtype ? "unfused" : "unfused, fp32 adapters";
  }
  static unfused::Linear linear_of(const Projection& weight, const Projection& update, size_t module,
                                   at::ScalarType adapters, Tensors* leaves) {
    const Module& m = update.modules[module];
    unfused::Linear linear{weight.frozen->whole().narrow(0, m.begin, m.end - m.begin), {}, {}, 0};
    for (const LowRank& u : update.updates) {
      if (u.begin != m.begin) continue;
      linear.scale = u.scale;
      linear.a = u.a.detach().to(adapters).clone().requires_grad_(true);
      linear.b = u.b.detach().to(adapters).clone().requires_grad_(true);
      leaves->insert(leaves->end(), {linear.a, linear.b});
    }
    return linear;
  }
  std::pair<Tensor, Tensor> wide_rope() const {
    return {at::cat({rope_.cos, rope_.cos}, 1).to(parts_.dtype), at::cat({rope_.sin, rope_.sin}, 1).to(parts_.dtype)};
  }

  const ShapeSet& set_;
  CausalLM model_;
  Model& parts_;
  at::TensorOptions options_;
  std::vector<Layer> frozen_;
  Adapter adapter_;
  Heads heads_;
  Rope rope_;
  Batch batch_;
  Pass pass_;
  Tensor positions_;
  int64_t labels_ = 0;
};

// ---- Running and reporting

struct Row {
  std::string op, phase, variant;
  std::vector<Cost> costs;
  std::optional<Times> times;        // none: out of memory
  std::optional<double> first_loss;  // of a step

  Cost cost() const {
    Cost sum;
    for (const Cost& c : costs) sum.flops += c.flops, sum.bytes += c.bytes;
    return sum;
  }
};

// One row for each variant and phase, and for their sum where there are several phases.
std::vector<Row> measure(const Case& c, const std::string& name, Stopwatch& watch, int repeat) {
  const size_t phases = c.costs.size();
  std::vector<std::vector<std::vector<double>>> ms(c.variants.size(), std::vector<std::vector<double>>(phases + 1));
  std::vector<bool> failed(c.variants.size());
  for (int i = -kWarmUp; i < repeat; ++i)
    for (size_t v = 0; v < c.variants.size(); ++v) {
      if (failed[v]) continue;
      double sum = 0;
      try {
        for (size_t p = 0; p < phases; ++p) {
          const double time = watch.milliseconds(c.variants[v].phases[p].run);
          sum += time;
          if (i >= 0) ms[v][p].push_back(time);
        }
      } catch (const c10::OutOfMemoryError&) {
        failed[v] = true;
        continue;
      }
      if (i >= 0) ms[v][phases].push_back(sum);
    }
  std::vector<Row> rows;
  for (size_t v = 0; v < c.variants.size(); ++v) {
    const auto add = [&](const std::string& phase, const std::vector<Cost>& costs, size_t p) {
      rows.push_back({name, phase, c.variants[v].name, costs, {}, {}});
      if (!failed[v]) rows.back().times = Times(ms[v][p]);
      if (const auto& loss = c.variants[v].first_loss; loss && loss->defined())
        rows.back().first_loss = loss->item<double>();
    };
    std::vector<Cost> all;
    for (size_t p = 0; p < phases; ++p) {
      add(c.variants[v].phases[p].name, c.costs[p], p);
      all.insert(all.end(), c.costs[p].begin(), c.costs[p].end());
    }
    if (phases > 1) add("sum", all, phases);
  }
  return rows;
}

using Line = std::vector<std::string>;

void print(const std::vector<Line>& lines, bool markdown) {
  std::vector<size_t> widths(lines[0].size());
  for (const Line& line : lines)
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  for (size_t l = 0; l < lines.size(); ++l) {
    std::string text = markdown ? "| " : "";
    for (size_t i = 0; i < widths.size(); ++i) {
      const std::string space(widths[i] - lines[l][i].size(), ' ');
      text += (i < 2 ? lines[l][i] + space : space + lines[l][i]) + (markdown ? " | " : "  ");
    }
    std::cout << text.substr(0, text.find_last_not_of(' ') + 1) << "\n";
    if (markdown && l == 0) {
      std::cout << "|";
      for (size_t i = 0; i < widths.size(); ++i) std::cout << (i < 2 ? " --- |" : " ---: |");
      std::cout << "\n";
    }
  }
  std::cout << std::endl;
}

// A line for each op and phase: ours, then the other variants beside it.
void report(const std::vector<Row>& rows, const Machine& machine, bool markdown) {
  const Line others{"unfused", "unfused, fp32 adapters", "frozen", "products"};
  const auto shown = [&](const std::string& variant) {
    return std::any_of(rows.begin(), rows.end(), [&](const Row& row) { return row.variant == variant; });
  };
  Line head{"op", "phase", "ours, ms (20-80 %)", "rate", "of floor"};
  for (const std::string& other : others)
    if (shown(other))
      head.insert(head.end(), {other + ", ms (20-80 %)", other == "frozen"     ? "LoRA costs"
                                                         : other == "products" ? "of products"
                                                                               : "ours is"});
  std::vector<Line> lines{head};
  for (const Row& ours : rows) {
    if (ours.variant != "ours") continue;
    const auto cell = [](const Row& row) {
      if (!row.times) return std::string("out of memory");
      return three_digits(row.times->median()) + " (" + three_digits(row.times->quantile(0.2)) + "-" +
             three_digits(row.times->quantile(0.8)) + ")";
    };
    const double median = ours.times ? ours.times->median() : 0;
    Line line{ours.op, ours.phase, cell(ours), "", ""};
    if (ours.times) {
      const Cost cost = ours.cost();
      line[3] = machine.computes(ours.costs) ? flop_rate(cost.flops / median) : byte_rate(cost.bytes / median);
      line[4] = format("%.0f %%", 100 * machine.floor_ms(ours.costs) / median);
    }
    for (const std::string& other : others) {
      if (!shown(other)) continue;
      const auto found = std::find_if(rows.begin(), rows.end(), [&](const Row& row) {
        return row.variant == other && row.op == ours.op && row.phase == ours.phase;
      });
      const bool there = found != rows.end(), both = there && found->times && ours.times;
      line.push_back(there ? cell(*found) : "");
      if (!both) {
        line.push_back("");
      } else if (other == "frozen") {
        line.push_back(format("%+.1f %%", 100 * (median / found->times->median() - 1)));
      } else if (other == "products") {
        line.push_back(format("%.0f %%", 100 * found->times->median() / median));
      } else {
        const double ratio = found->times->median() / median;
        line.push_back(ratio < 100 ? format("%.2f x", ratio) : "> 99 x");
      }
    }
    lines.push_back(std::move(line));
  }
  print(lines, markdown);
  std::string losses;
  for (const Row& row : rows)
    if (row.first_loss && row.phase == "sum")
      losses += (losses.empty() ? "loss of the first step (dropout masks differ): " : ", ") + row.variant + " " +
                format("%.4f", *row.first_loss);
  if (!losses.empty()) std::cout << losses << "\n\n";
}

// The value of the first line of a file that begins with `key`.
std::string line_of(const std::filesystem::path& file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);)
    if (line.rfind(key, 0) == 0) {
      const size_t begin = line.find_first_not_of(" \t", line.find(':') + 1);
      return begin == std::string::npos ? "" : line.substr(begin);
    }
  return "";
}
std::string device_name(const at::Device& device) {
  if (device.is_cpu()) return line_of("/proc/cpuinfo", "model name");
  std::error_code none;
  for (const auto& folder : std::filesystem::directory_iterator("/proc/driver/nvidia/gpus", none))
    if (const std::string name = line_of(folder.path() / "information", "Model"); !name.empty()) return name;
  return "name not known";
}

std::string attention_of(const Tensor& x) {
  const ops::Backend* backend = ops::backend_for(x);
  return backend ? backend->attention_name() : "our own; unfused: at::_scaled_dot_product_flash_attention_for_cpu";
}

void run(const Options& options) {
  const ShapeSet& set = *std::find_if(shape_sets().begin(), shape_sets().end(),
                                      [&](const ShapeSet& s) { return s.name == options.shapes; });
  const at::Device device = ops::open_device(options.device);  // before anything is computed, as it asks
  const testing::TempFolder folder;
  testing::TinyModel model = set.model;
  model.dtype = options.dtype == "bf16" ? "bfloat16" : "float32";
  write_tiny_model(folder.path(), model);
  Bench bench(options, set, folder.path());
  Stopwatch watch(device, set.cold);

  nlohmann::ordered_json header = {
      {"device", device.str() + ", " + device_name(device)},
      {"threads", at::get_num_threads()},
      {"torch", TORCH_VERSION},
      {"dtype", model.dtype},
      {"shapes",
       set.name + join(": hidden ", model.hidden, ", inner ", model.inner, ", heads ", model.heads, ", layers ",
                       set.layers, ", vocabulary ", model.vocabulary, ", sequences of ", set.length)},
      {"adapter",
       options.targets + join(", r ", kRank, ", dropout ", kDropout, ", ", bench.parameter_count(), " parameters")},
      {"repetitions", options.repeat}};
  if (model.layers < set.layers)
    header["layers"] = join("all ", set.layers, " share the frozen weights of ", model.layers);
  if (device.is_cpu()) {
    const std::string mkl = at::get_mkl_version(), onednn = at::get_mkldnn_version();
    header["blas"] = mkl.substr(0, mkl.find("-Product")) + "; " + onednn.substr(0, onednn.find(" (Git"));
  }
  for (const auto& [key, value] : header.items())
    std::cout << (options.markdown ? "- " : "") << key << ": "
              << (value.is_string() ? value.get<std::string>() : value.dump()) << "\n";
  nlohmann::ordered_json result = {{"header", header}, {"rows", nlohmann::ordered_json::array()}};

  for (const int64_t tokens : options.tokens.empty() ? set.tokens : options.tokens) {
    bench.set_tokens(tokens);
    Machine machine(set, tokens, bench.tensor_options());
    std::vector<Row> rows;
    for (const auto& [name, make] : bench.cases()) {
      const auto asked = [&name = name](const std::string& word) { return name.find(word) != std::string::npos; };
      if (!options.ops.empty() && std::none_of(options.ops.begin(), options.ops.end(), asked)) continue;
      machine.observe(watch);
      for (Row& row : measure(make(), name, watch, options.repeat)) rows.push_back(std::move(row));
    }
    if (rows.empty()) fail("--op: expected part of the name of an op, got none that is");
    std::cout << "\n"
              << tokens << " tokens; " << machine.text()
              << "; attention: " << attention_of(at::empty({1}, bench.tensor_options())) << "\n\n";
    report(rows, machine, options.markdown);
    for (const Row& row : rows) {
      nlohmann::ordered_json line = {{"tokens", tokens},
                                     {"op", row.op},
                                     {"phase", row.phase},
                                     {"variant", row.variant},
                                     {"flops", row.cost().flops},
                                     {"bytes", row.cost().bytes},
                                     {"floor_ms", machine.floor_ms(row.costs)}};
      if (row.times) {
        line["median_ms"] = row.times->median();
        line["ms_20_percent"] = row.times->quantile(0.2);
        line["ms_80_percent"] = row.times->quantile(0.8);
      }
      if (row.first_loss) line["first_loss"] = *row.first_loss;
      result["rows"].push_back(std::move(line));
    }
  }
  if (options.json.empty()) return;
  std::ofstream out(options.json);
  out << result.dump(2) << "\n";
  if (!out.flush()) storage_fail("--json: ", options.json, ": not written");
}

int run_program(int argc, char** argv) {
  Options options;
  CLI::App app("Measures the ops and a training step of Rankfold beside plain ATen and beside frozen weights.");
  std::vector<std::string> names;
  for (const ShapeSet& set : shape_sets()) names.push_back(set.name);
  app.add_option("--device", options.device, "cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--shapes", options.shapes, "cpu, 7b (Baichuan-7B) or tiny")
      ->check(CLI::IsMember(names))
      ->capture_default_str();
  app.add_option("--tokens", options.tokens, "2048,8192; default: those of the shape set")->delimiter(',');
  app.add_option("--dtype", options.dtype, "bf16 or fp32")
      ->check(CLI::IsMember({"bf16", "fp32"}))
      ->capture_default_str();
  app.add_option("--targets", options.targets, "W_pack or all-linear")
      ->check(CLI::IsMember({"W_pack", "all-linear"}))
      ->capture_default_str();
  app.add_option("--op", options.ops, "parts of the names of the ops to measure; default: all");
  app.add_option("--repeat", options.repeat, "measurements of each")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--json", options.json, "file for every figure");
  app.add_flag("--markdown", options.markdown, "tables in Markdown");
  CLI11_PARSE(app, argc, argv);
  try {
    run(options);
    return 0;
  } catch (const Error& error) {
    std::cerr << "rankfold-bench: " << error.what() << "\n";
    return static_cast<int>(error.code());
  } catch (const std::exception& error) {
    std::cerr << "rankfold-bench: " << error.what() << "\n";
    return static_cast<int>(ExitCode::kDefect);
  }
}

}  // namespace
}  // namespace rankfold

int main(int argc, char** argv) {
  rankfold::set_up_libraries(argv);
  rankfold::set_up_memory(/*keep_pages=*/true);
  return rankfold::run_program(argc, argv);
}
