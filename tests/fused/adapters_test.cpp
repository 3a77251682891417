// Adapters that are switched, added and merged where kernels compute.
#include "fused/backend.h"
#include "rankfold/rankfold.h"
#include "support/temp_folder.h"
#include "support/tiny_family.h"
#include "support/tiny_model.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <optional>

namespace rankfold {
namespace {

using testing::Kernels;
using testing::kVocabulary;
using testing::TempFolder;

class FusedAdapters : public ::testing::Test {
 protected:
  FusedAdapters() {
    testing::write_tiny_model(folder_ / "model", {.baichuan = false, .vocabulary = kVocabulary});
    testing::write_tiny_rows(folder_ / "rows.jsonl", 9, kVocabulary);
  }
  CausalLM load(const Kernels& kernels) const {
    return CausalLM::load(folder_ / "model", {.device = kernels.device()});
  }
  static Adapter make(const CausalLM& model, const std::string& name, int64_t seed) {
    const Adapter adapter =
        Adapter::create(model, {.r = 4, .lora_alpha = 8, .target_modules = "all-linear"}, seed, name);
    const at::NoGradGuard no_grad;
    at::manual_seed(seed);
    at::Tensor(adapter.flat_values()).add_((at::randn({adapter.parameter_count()}) * 0.1).to(model.device()));
    return adapter;
  }
  static at::Tensor logits(const CausalLM& model) {
    static const std::vector<int32_t> ids{5, 17, 3, 44, 61, 8};
    const at::NoGradGuard no_grad;
    return model.logits(make_batch({{&ids}})).cpu();
  }

  const TempFolder folder_;
};

// The optimizer's kernel writes low-precision copies into the network that computes: another one comes with each switch.
TEST_F(FusedAdapters, SwitchingBetweenStepsChangesNothing) {
  const auto values = [&](bool switches) {
    const Kernels kernels(true);
    const CausalLM model = load(kernels);
    const Adapter adapter = make(model, "a", 1);
    const Dataset data = Dataset::open(folder_ / "rows.jsonl", nullptr, {.max_length = 64}, kVocabulary);
    Trainer trainer(model, adapter, data,
                    {.output_dir = (folder_ / (switches ? "switched" : "plain")).string(),
                     .per_device_train_batch_size = 2,
                     .max_steps = 4,
                     .learning_rate = 1e-2});
    if (switches) {
      make(model, "visitor", 2).detach();
      model.set_active_adapters({"a"});
      trainer.on_progress([&](const Progress&) {
        model.set_active_adapters({});
        logits(model);
        model.set_active_adapters({"a"});
      });
    }
    EXPECT_TRUE(trainer.run());
    return adapter.flat_values().cpu().clone();
  };
  EXPECT_TRUE(values(true).equal(values(false)));
}

TEST_F(FusedAdapters, SeveralAddUpAndMergeAsOnTheCpu) {
  at::Tensor both[2], merged[2];
  for (int on = 0; on < 2; ++on) {
    const Kernels kernels(on == 1);
    const CausalLM model = load(kernels);
    const Adapter first = make(model, "first", 1), second = make(model, "second", 2);
    model.set_active_adapters({"first", "second"});
    both[on] = logits(model);
    model.merge_adapters();
    merged[on] = logits(model);
  }
  const double scale = both[0].abs().max().item<double>();
  EXPECT_LT((both[1] - both[0]).abs().max().item<double>(), 1e-4 * scale);
  EXPECT_LT((merged[1] - both[1]).abs().max().item<double>(), 1e-4 * scale);
  EXPECT_LT((merged[0] - both[0]).abs().max().item<double>(), 1e-4 * scale);
}

// Steps of AdamW's kernel on updates, whole weights and norms side by side, and what a merge in memory makes of them.
TEST_F(FusedAdapters, WholeTensorsTakeStepsAsOnTheCpu) {
  const LoraConfig config{.r = 4,
                          .lora_alpha = 8,
                          .target_modules = StringList{"q_proj", "down_proj", "embed_tokens"},
                          .modules_to_save = {"k_proj", "lm_head", "norm"}};
  at::Tensor values[2], before[2], merged[2];
  for (int on = 0; on < 2; ++on) {
    const Kernels kernels(on == 1);
    const CausalLM model = load(kernels);
    const Adapter adapter = Adapter::create(model, config, 1);
    const Dataset data = Dataset::open(folder_ / "rows.jsonl", nullptr, {.max_length = 64}, kVocabulary);
    Trainer trainer(model, adapter, data,
                    {.output_dir = (folder_ / ("out" + std::to_string(on))).string(),
                     .per_device_train_batch_size = 3,
                     .max_steps = 4,
                     .learning_rate = 1e-2,
                     .weight_decay = 0.1});
    EXPECT_TRUE(trainer.run());
    values[on] = adapter.flat_values().cpu().clone();
    before[on] = logits(model);
    model.merge_adapters();
    merged[on] = logits(model);
  }
  EXPECT_LT((values[1] - values[0]).norm().item<double>(), 1e-3 * values[0].norm().item<double>());
  const double scale = before[0].abs().max().item<double>();
  for (int on = 0; on < 2; ++on) EXPECT_LT((merged[on] - before[on]).abs().max().item<double>(), 1e-4 * scale) << on;
  EXPECT_LT((before[1] - before[0]).abs().max().item<double>(), 1e-2 * scale);
}

// A merge leaves no copies behind that were laid out for other updates and biases.
TEST_F(FusedAdapters, WhatComesAfterAMergeIsAsOnTheCpu) {
  testing::write_tiny_family(folder_ / "biased", {"Qwen2ForCausalLM", {{"tie_word_embeddings", false}}});
  for (const LoraConfig& next :
       {LoraConfig{.r = 4, .target_modules = StringList{"q_proj"}},
        LoraConfig{.r = 4, .target_modules = StringList{"o_proj"}, .modules_to_save = {"v_proj"}},
        LoraConfig{.r = 4, .target_modules = StringList{"q_proj"}, .bias = "lora_only"}}) {
    at::Tensor found[2];
    for (int on = 0; on < 2; ++on) {
      const Kernels kernels(on == 1);
      const CausalLM model = CausalLM::load(folder_ / "biased", {.device = kernels.device()});
      const auto add = [&](const LoraConfig& config, const char* name) {
        const Adapter adapter = Adapter::create(model, config, 3, name);
        const at::NoGradGuard no_grad;
        at::manual_seed(9);
        at::Tensor(adapter.flat_values()).add_((at::randn({adapter.parameter_count()}) * 0.1).to(model.device()));
        return logits(model);
      };
      add({.r = 4, .target_modules = StringList{"o_proj"}}, "first");
      model.merge_adapters();
      logits(model);
      found[on] = add(next, "next");
    }
    EXPECT_TRUE(found[0].allclose(found[1], 1e-4, 1e-5));
  }
}

TEST_F(FusedAdapters, BackwardAfterTheModelHasGone) {
  const Kernels kernels(true);
  static const std::vector<int32_t> ids{5, 17, 3, 44, 61, 8};
  const auto gradient = [&](bool keeps) {
    std::optional<CausalLM> model = load(kernels);
    std::optional<Adapter> adapter = make(*model, "a", 1);
    const at::Tensor values = adapter->flat_gradient();
    const at::Tensor loss = model->loss(make_batch({{&ids, &ids}}));
    if (!keeps) adapter.reset(), model.reset();
    loss.backward();
    return values.cpu().clone();
  };
  EXPECT_TRUE(gradient(false).equal(gradient(true)));
}

}  // namespace
}  // namespace rankfold
