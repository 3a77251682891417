// Every family by the kernels against the CPU path: losses and gradients of adapters and of whole models, at every level
// of checkpointing, and decoding. A row of the table without an entry in tiny_families() is an error.
#include "adapter/match.h"
#include "fused/backend.h"
#include "model/decoder.h"
#include "model/model.h"
#include "rankfold/rankfold.h"
#include "support/temp_folder.h"
#include "support/tiny_family.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace rankfold {
namespace {

using testing::Kernels;
using testing::TempFolder;
using testing::TinyFamily;

class Families : public ::testing::TestWithParam<TinyFamily> {
 protected:
  Families() { testing::write_tiny_family(folder_.path(), GetParam()); }

  CausalLM load(bool by_kernels) const {
    return CausalLM::load(folder_.path(), {.device = Kernels(by_kernels).device()});
  }

  TempFolder folder_;
};

// Rows of 3, 30 and 21 tokens with a few labels that do not count.
Batch some_rows() {
  static const std::vector<std::vector<int32_t>> rows = [] {
    std::vector<std::vector<int32_t>> made;
    uint64_t seed = 7;
    for (const int64_t length : {3, 30, 21}) {
      std::vector<int32_t>& row = made.emplace_back();
      for (int64_t t = 0; t < length; ++t)
        row.push_back(static_cast<int32_t>((seed = seed * 6364136223846793005ULL + 1442695040888963407ULL) >> 33) %
                      static_cast<int32_t>(testing::kVocabulary));
      for (int32_t& id : row) id = std::abs(id);
    }
    return made;
  }();
  return make_batch({{&rows[0], &rows[0]}, {&rows[1], &rows[1]}, {&rows[2], &rows[2]}});
}

struct Outcome {
  double loss = 0;
  at::Tensor gradient;  // of all leaves, flat
};

Outcome trained_once(const CausalLM& model, const Adapter& adapter, Checkpointing level) {
  adapter.flat_gradient().zero_();
  const at::Tensor loss = model.shared_decoder()->loss(some_rows(), level);
  loss.backward();
  return {loss.item<double>(), adapter.flat_gradient().cpu().clone()};
}

void expect_same(const Outcome& one, const Outcome& other, const std::string& what) {
  EXPECT_NEAR(one.loss, other.loss, 1e-5 * std::abs(other.loss)) << what;
  const double largest = other.gradient.abs().max().item<double>();
  EXPECT_GT(largest, 0) << what;
  EXPECT_LE((one.gradient - other.gradient).abs().max().item<double>(), 1e-4 * largest) << what;
}

// B is zero at first: then nothing would depend on A.
void fill_b(const Adapter& adapter) {
  const at::NoGradGuard no_grad;
  at::manual_seed(5);
  for (const Parameter& p : adapter.named_parameters())
    if (p.name.find("lora_B") != std::string::npos) at::Tensor(p.value).copy_(at::randn(p.value.sizes()) * 0.1);
}

TEST_P(Families, AdaptersTrainAsOnTheCpu) {
  for (const double dropout : {0.0, 0.1}) {
    const LoraConfig lora{.r = 4, .lora_alpha = 8, .lora_dropout = dropout, .target_modules = "all-linear"};
    const CausalLM on_cpu = load(false), by_kernels = load(true);
    const Adapter cpu_adapter = Adapter::create(on_cpu, lora, 3), adapter = Adapter::create(by_kernels, lora, 3);
    fill_b(cpu_adapter), fill_b(adapter);
    const Outcome expected = trained_once(on_cpu, cpu_adapter, Checkpointing::none);
    for (const Checkpointing level : {Checkpointing::none, Checkpointing::mlp, Checkpointing::full}) {
      const std::string what =
          "level " + std::to_string(static_cast<int>(level)) + ", dropout " + std::to_string(dropout);
      expect_same(trained_once(by_kernels, adapter, level), expected, "by kernels, " + what);
      const Outcome again = trained_once(on_cpu, cpu_adapter, level);
      EXPECT_TRUE(again.gradient.equal(expected.gradient)) << what;
    }
    // Adapters come and go on a base that has computed.
    adapter.detach();
    {
      const at::NoGradGuard no_grad;
      cpu_adapter.detach();
      const double base = on_cpu.loss(some_rows()).item<double>();
      EXPECT_NEAR(by_kernels.loss(some_rows()).item<double>(), base, 1e-5 * base);
    }
    adapter.attach();
    expect_same(trained_once(by_kernels, adapter, Checkpointing::none), expected, "attached again");
  }
}

// What PEFT trains beside updates of linear layers: head and norms as a whole, biases, the embedding in either way.
TEST_P(Families, WholeTensorsTrainAsOnTheCpu) {
  const CausalLM on_cpu = load(false), by_kernels = load(true);
  const BaseParts base = parts_of(*on_cpu.shared_model());
  const auto last_part = [](const std::string& name) { return name.substr(name.rfind('.') + 1); };
  const auto module_of = [](const std::string& tensor) { return tensor.substr(0, tensor.rfind('.')); };
  const std::string embedding = last_part(module_of(base.embedding));
  LoraConfig lora{.r = 4, .lora_alpha = 8, .target_modules = StringList{last_part(base.modules[0].name)}};
  lora.modules_to_save = {module_of(base.head), "norm"};
  if (on_cpu.config().qkv_bias) lora.bias = "lora_only";
  for (const bool is_whole : {true, false}) {
    if (is_whole)
      lora.modules_to_save.push_back(embedding);
    else
      lora.modules_to_save.pop_back(), std::get<StringList>(lora.target_modules).push_back(embedding);
    if (!is_whole && base.is_tied) continue;  // lora-train refuses it
    const Adapter cpu_adapter = Adapter::create(on_cpu, lora, 3), adapter = Adapter::create(by_kernels, lora, 3);
    fill_b(cpu_adapter), fill_b(adapter);
    const Outcome expected = trained_once(on_cpu, cpu_adapter, Checkpointing::none);
    expect_same(trained_once(by_kernels, adapter, Checkpointing::full), expected, is_whole ? "whole" : "update");
    cpu_adapter.detach(), adapter.detach();
  }
}

TEST_P(Families, WholeModelsTrainAsOnTheCpu) {
  const CausalLM on_cpu = load(false), by_kernels = load(true);
  const Adapter expected = Adapter::full(on_cpu), full = Adapter::full(by_kernels);
  ASSERT_EQ(full.parameter_count(), on_cpu.parameter_count());
  // A step between the two passes: what is made of the leaves must follow them.
  for (int step = 0; step < 2; ++step) {
    expect_same(trained_once(by_kernels, full, Checkpointing::none),
                trained_once(on_cpu, expected, Checkpointing::none), "step " + std::to_string(step));
    const at::NoGradGuard no_grad;
    for (const Adapter* adapter : {&expected, &full}) adapter->flat_values().add_(adapter->flat_gradient(), -1e-3);
  }
}

// Into the weights in memory, and into a folder.
TEST_P(Families, MergedModelsAreTheAdaptedOnes) {
  const CausalLM model = load(true);
  const Adapter adapter = Adapter::create(model, {.r = 4, .lora_alpha = 8, .target_modules = "all-linear"}, 3);
  fill_b(adapter);
  const at::NoGradGuard no_grad;
  const double adapted = model.loss(some_rows()).item<double>();
  const TempFolder out;
  adapter.save(out / "adapter");
  merge(folder_.path(), out / "adapter", out / "merged");
  EXPECT_NEAR(CausalLM::load(out / "merged").loss(some_rows()).item<double>(), adapted, 1e-5 * adapted);
  model.merge_adapters();
  EXPECT_NEAR(model.loss(some_rows()).item<double>(), adapted, 1e-5 * adapted);
  const double base = load(false).loss(some_rows()).item<double>();
  EXPECT_GT(std::abs(adapted / base - 1), 1e-3);
}

TEST_P(Families, DecodesWhatTheLogitsSay) {
  const std::vector<std::vector<int32_t>> prompts{{5, 17, 33}, {8, 9, 4, 3, 60, 7, 7, 12, 81, 20, 11}};
  constexpr int64_t kNew = 16;
  const auto decoded = generate(load(true), prompts, {.max_new_tokens = kNew});
  EXPECT_EQ(decoded, generate(load(false), prompts, {.max_new_tokens = kNew}));
  if (GetParam().config.dump().find("dynamic") != std::string::npos)
    return;  // keys keep the angles they were cached with
  const CausalLM model = load(false);
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < prompts.size(); ++i) {
    std::vector<int32_t> text = prompts[i];
    for (const int32_t id : decoded[i]) {
      const at::Tensor logits = model.logits(make_batch({{&text, nullptr}}))[-1];
      EXPECT_GE(logits[id].item<float>(), logits.max().item<float>() - 1e-5f) << "token " << text.size();
      text.push_back(id);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Table, Families, ::testing::ValuesIn(testing::tiny_families()),
                         [](const auto& info) { return info.param.name + "_" + std::to_string(info.index); });

TEST(FamiliesTable, EveryRowIsTested) {
  const std::vector<TinyFamily> tested = testing::tiny_families();
  for (const std::string& name : architecture_names())
    EXPECT_TRUE(std::any_of(tested.begin(), tested.end(), [&](const TinyFamily& family) {
      return family.name == name;
    })) << name;
}

}  // namespace
}  // namespace rankfold
