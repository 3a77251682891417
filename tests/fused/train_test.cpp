// Whole runs through the kernels against the same runs on the CPU path: same masks, so the same losses and adapters up
// to rounding.
#include "fused/backend.h"
#include "ops/augmented.h"
#include "rankfold/rankfold.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <cmath>

namespace rankfold {
namespace {

using testing::Kernels;
using testing::kVocabulary;
using testing::TempFolder;
using testing::TinyModel;

struct Setting {
  std::string name;
  TinyModel model;
  LoraConfig lora;
  bool full = false;
  std::string checkpointing = "none";
  std::string kept_as = "auto";  // quantization_type
  bool is_nested = false;
};

struct Result {
  std::vector<LogRow> log;
  at::Tensor values;
};

class Fused : public ::testing::TestWithParam<Setting> {
 protected:
  Fused() {
    TinyModel model = GetParam().model;
    model.vocabulary = kVocabulary;
    testing::write_tiny_model(folder_ / "model", model);
    testing::write_tiny_rows(folder_ / "rows.jsonl", 25, kVocabulary);
  }

  Result train(bool by_kernels, const std::string& output, int64_t steps, int64_t stop_after = -1,
               const std::string& resume = "") const {
    const Setting& setting = GetParam();
    const Kernels kernels(by_kernels);
    TrainConfig config;
    config.output_dir = (folder_ / output).string();
    config.per_device_train_batch_size = 2;
    config.gradient_accumulation_steps = 2;
    config.max_steps = steps;
    config.learning_rate = 3e-3;
    config.weight_decay = 0.01;
    config.logging_steps = 1;
    config.resume_from_checkpoint = resume;
    config.gradient_checkpointing = setting.checkpointing;
    const CausalLM model = CausalLM::load(folder_ / "model", {.device = kernels.device(),
                                                              .dtype = setting.model.dtype,
                                                              .quantization_type = setting.kept_as,
                                                              .double_quantization = setting.is_nested});
    const Dataset data = Dataset::open(folder_ / "rows.jsonl", nullptr, {.max_length = 64}, kVocabulary);
    const Adapter adapter = setting.full ? Adapter::full(model) : Adapter::create(model, setting.lora, 7);
    Trainer trainer(model, adapter, data, config);
    int64_t done = 0;
    trainer.on_progress([&](const Progress&) { ++done; });
    if (stop_after >= 0) trainer.stop_when([&] { return done == stop_after; });
    trainer.run();
    return {trainer.log(), adapter.flat_values().cpu()};
  }

  TempFolder folder_;
};

TEST_P(Fused, TenStepsAreTheCpuPaths) {
  const Result kernels = train(true, "kernels", 10), cpu = train(false, "cpu", 10);
  ASSERT_EQ(kernels.log.size(), 10u);
  ASSERT_EQ(cpu.log.size(), 10u);
  const bool is_fp32 = GetParam().model.dtype == "float32";
  const double loss_limit = is_fp32 ? 1e-5 : 1e-2, value_limit = is_fp32 ? 2e-3 : 0.1;
  for (size_t i = 0; i < 10; ++i)
    EXPECT_NEAR(kernels.log[i].loss, cpu.log[i].loss, loss_limit * cpu.log[i].loss) << "step " << i + 1;
  const auto three = [&](size_t first) {
    return cpu.log[first].loss + cpu.log[first + 1].loss + cpu.log[first + 2].loss;
  };
  EXPECT_LT(three(7), three(0));  // rows differ from step to step
  const double largest = cpu.values.abs().max().item<double>();
  EXPECT_LE((kernels.values - cpu.values).abs().max().item<double>(), value_limit * largest);
}

TEST_P(Fused, StopsAndGoesOnToTheBit) {
  const Result whole = train(true, "whole", 6);
  train(true, "parts", 6, 3);
  const Result resumed = train(true, "parts", 6, -1, "auto");
  EXPECT_TRUE(whole.values.equal(resumed.values));
  ASSERT_EQ(resumed.log.size(), 6u);
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(whole.log[i].loss, resumed.log[i].loss) << "step " << i + 1;
}

const TinyModel kBaichuan{.hidden = 40, .inner = 56}, kGrouped{.baichuan = false, .tied = true};

INSTANTIATE_TEST_SUITE_P(
    Runs, Fused,
    ::testing::Values(
        Setting{"W_pack_dropout",
                kBaichuan,
                {.r = 4, .lora_alpha = 8, .lora_dropout = 0.1, .target_modules = StringList{"W_pack"}}},
        Setting{"W_pack_no_dropout", kBaichuan, {.r = 16, .lora_alpha = 8, .target_modules = StringList{"W_pack"}}},
        Setting{
            "all_linear", kGrouped, {.r = 8, .lora_alpha = 8, .lora_dropout = 0.05, .target_modules = "all-linear"}},
        Setting{"all_linear_no_dropout", kGrouped, {.r = 3, .lora_alpha = 8, .target_modules = "all-linear"}},
        Setting{"all_linear_checkpointing_full",
                kBaichuan,
                {.r = 8, .lora_alpha = 8, .lora_dropout = 0.05, .target_modules = "all-linear"},
                false,
                "full"},
        Setting{"some_modules_checkpointing_mlp",
                kGrouped,
                {.r = 48,
                 .lora_alpha = 8,
                 .lora_dropout = 0.2,
                 .target_modules = StringList{"q_proj", "v_proj", "up_proj"}},
                false,
                "mlp"},
        Setting{"nf4_nested",
                kBaichuan,
                {.r = 8, .lora_alpha = 8, .lora_dropout = 0.05, .target_modules = "all-linear"},
                false,
                "none",
                "nf4",
                true},
        Setting{"int8_some_modules",
                kGrouped,
                {.r = 4, .lora_alpha = 8, .target_modules = StringList{"q_proj", "v_proj", "up_proj"}},
                false,
                "full",
                "int8"},
        Setting{"fp8_bfloat16",
                {.dtype = "bfloat16"},
                {.r = 8, .lora_alpha = 8, .lora_dropout = 0.05, .target_modules = "all-linear"},
                false,
                "none",
                "fp8"},
        Setting{"full_tuning", kGrouped, {}, true},
        Setting{"full_tuning_checkpointing_full", kBaichuan, {}, true, "full"},
        Setting{"bfloat16",
                {.dtype = "bfloat16"},
                {.r = 8, .lora_alpha = 8, .lora_dropout = 0.05, .target_modules = "all-linear"}},
        Setting{"bfloat16_full_tuning", {.baichuan = false, .dtype = "bfloat16"}, {}, true},
        Setting{"bfloat16_full_tuning_tied", {.tied = true, .dtype = "bfloat16"}, {}, true}),
    [](const auto& info) { return info.param.name; });

class FusedModel : public ::testing::Test {
 protected:
  FusedModel() {
    testing::write_tiny_model(folder_ / "model", {.baichuan = false, .vocabulary = kVocabulary});
    testing::write_tiny_rows(folder_ / "rows.jsonl", 9, kVocabulary);
  }
  TempFolder folder_;
};

TEST_F(FusedModel, EvaluatesAndGeneratesAsTheCpuPath) {
  const std::vector<std::vector<int32_t>> prompts{{5, 9, 31}, {7}, {50, 3, 3, 8, 60}};
  EvalResult results[2];
  std::vector<std::vector<int32_t>> completions[2];
  for (int on = 0; on < 2; ++on) {
    const Kernels kernels(on == 1);
    const CausalLM model = CausalLM::load(folder_ / "model", {.device = kernels.device()});
    const Adapter adapter = Adapter::create(model, {.r = 8, .lora_alpha = 8, .target_modules = "all-linear"}, 3);
    at::manual_seed(11);
    {
      at::NoGradGuard no_grad;
      for (at::Tensor leaf : adapter.parameters()) leaf.copy_(at::randn(leaf.sizes()) * 0.1);
    }
    const Dataset data = Dataset::open(folder_ / "rows.jsonl", nullptr, {.max_length = 64}, kVocabulary);
    results[on] = evaluate(model, data, 4);
    completions[on] = generate(model, prompts, {.max_new_tokens = 12});
  }
  EXPECT_NEAR(results[1].loss, results[0].loss, 1e-5 * results[0].loss);
  EXPECT_EQ(completions[1], completions[0]);
}

class Float16 : public FusedModel {
 protected:
  struct Result {
    std::vector<LogRow> log;
    at::Tensor values;
    int64_t overflows = 0;
  };
  Result train(const std::string& output, const std::string& dtype, int64_t stop_after = 0,
               const std::string& resume = "") const {
    const Kernels kernels(dtype == "float16");
    const CausalLM model = CausalLM::load(folder_ / "model", {.device = kernels.device(), .dtype = dtype});
    const Dataset data = Dataset::open(folder_ / "rows.jsonl", nullptr, {.max_length = 64}, kVocabulary);
    const Adapter adapter = Adapter::create(model, {.r = 8, .lora_alpha = 8, .target_modules = "all-linear"}, 3);
    TrainConfig config;
    config.output_dir = (folder_ / output).string();
    config.per_device_train_batch_size = 3;
    config.max_steps = 12;
    config.learning_rate = 3e-3;
    config.logging_steps = 1;
    config.resume_from_checkpoint = resume;
    Trainer trainer(model, adapter, data, config);
    Result result;
    int64_t done = 0;
    trainer.on_progress([&](const Progress& progress) { done = progress.step; });
    trainer.on_message([&](const std::string& line) { result.overflows += line.find("loss scale is") != line.npos; });
    if (stop_after > 0) trainer.stop_when([&] { return done == stop_after; });
    trainer.run();
    result.log = trainer.log();
    result.values = adapter.flat_values().cpu();
    return result;
  }
};

TEST_F(Float16, FollowsFloat32) {
  const Result half = train("half", "float16"), exact = train("single", "float32");
  EXPECT_EQ(half.overflows, 0);
  ASSERT_EQ(half.log.size(), exact.log.size());
  for (size_t i = 0; i < half.log.size(); ++i) {
    EXPECT_NEAR(half.log[i].loss, exact.log[i].loss, 1e-2 * exact.log[i].loss);
    EXPECT_NEAR(half.log[i].grad_norm, exact.log[i].grad_norm, 2e-2 * exact.log[i].grad_norm);  // of the loss unscaled
  }
  EXPECT_LE((half.values - exact.values).abs().max().item<double>(), 0.05 * exact.values.abs().max().item<double>());
}

TEST_F(Float16, FindsAScaleThatFits) {
  const TensorFile file = TensorFile::open(folder_ / "model/model.safetensors");
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const TensorInfo& info : file.tensors())
    tensors.emplace_back(info.name, file.tensor(info.name) * (info.name == "lm_head.weight" ? 100 : 1));
  write_tensor_file(folder_ / "model/model.safetensors", tensors);
  const Result whole = train("whole", "float16");
  EXPECT_GE(whole.overflows, 1);
  EXPECT_EQ(whole.log.size() + static_cast<size_t>(whole.overflows), 12u);  // steps left out have no row
  train("parts", "float16", 5);
  EXPECT_TRUE(train("parts", "float16", 0, "auto").values.equal(whole.values));
}

// A low-precision copy is written again when a leaf has changed behind AdamW's kernel.
TEST_F(FusedModel, CopiesFollowAnotherOptimizer) {
  const Dataset data = Dataset::open(folder_ / "rows.jsonl", nullptr, {.max_length = 64}, kVocabulary);
  const Batch batch = data.batch({0, 1, 2});
  at::NoGradGuard no_grad;
  double losses[2][2];
  for (int on = 0; on < 2; ++on) {
    const Kernels kernels(on == 1);
    const CausalLM model = CausalLM::load(folder_ / "model", {.device = kernels.device()});
    const Adapter adapter = Adapter::create(model, {.r = 8, .lora_alpha = 8, .target_modules = "all-linear"}, 3);
    losses[on][0] = model.loss(batch).item<double>();
    for (at::Tensor leaf : adapter.parameters()) leaf.add_(0.05);
    losses[on][1] = model.loss(batch).item<double>();
  }
  EXPECT_NE(losses[1][0], losses[1][1]);
  for (int i = 0; i < 2; ++i) EXPECT_NEAR(losses[1][i], losses[0][i], 1e-4 * losses[0][i]);
}

}  // namespace
}  // namespace rankfold
