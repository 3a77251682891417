// Numbers that go wrong: what is skipped, what stops a run, and what is said of it.
#include "rankfold/rankfold.h"

#include "checkpoint/checkpoint.h"
#include "support/contains.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

namespace rankfold {
namespace {

namespace fs = std::filesystem;
using testing::contains;
using testing::error_of;
using testing::kVocabulary;
using testing::TempFolder;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class Numbers : public ::testing::Test {
 protected:
  Numbers() {
    testing::write_tiny_model(folder_ / "model", {.vocabulary = kVocabulary});
    testing::write_tiny_rows(folder_ / "rows.jsonl", 40, kVocabulary);
    config_.output_dir = (folder_ / "out").string();
    config_.per_device_train_batch_size = 2;
    config_.gradient_accumulation_steps = 2;
    config_.max_steps = 6;
    config_.learning_rate = 5e-3;
    config_.logging_steps = 1;
    config_.save_steps = 2;
  }

  // Changes one tensor of the base.
  void change_base(const std::string& name, const std::function<void(at::Tensor&)>& change) const {
    const TensorFile file = TensorFile::open(folder_ / "model/model.safetensors");
    std::vector<std::pair<std::string, at::Tensor>> tensors;
    for (const TensorInfo& info : file.tensors()) {
      tensors.emplace_back(info.name, file.tensor(info.name).clone());
      if (info.name == name) change(tensors.back().second);
    }
    write_tensor_file(folder_ / "model/model.safetensors", tensors);
  }

  Dataset rows() const { return Dataset::open(folder_ / "rows.jsonl", nullptr, {.max_length = 64}, kVocabulary); }
  Trainer trainer(const Adapter& adapter, const CausalLM& model) {
    Trainer trainer(model, adapter, rows(), config_);
    trainer.on_message([this](const std::string& text) { messages_.push_back(text); });
    return trainer;
  }
  std::string message(const std::string& part) const {
    for (const std::string& line : messages_)
      if (line.find(part) != std::string::npos) return line;
    return "";
  }

  TempFolder folder_;
  TrainConfig config_;
  std::vector<std::string> messages_;
};

TEST_F(Numbers, ASkippedStepLeavesNoTrace) {
  const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
  const Adapter adapter = Adapter::create(model, {.r = 4, .lora_dropout = 0.1, .target_modules = "all-linear"}, 7);
  Trainer trainer = this->trainer(adapter, model);
  const auto moments = [&](int step) {
    return TensorFile::open(folder_ / ("out/checkpoint-" + std::to_string(step) + "/optimizer.safetensors"));
  };
  at::Tensor before;
  int64_t done = 0;
  trainer.stop_when([&] {
    if (done == 3 && !before.defined()) {  // the first micro-batch of step 4 meets a NaN
      const at::NoGradGuard no_grad;
      before = adapter.flat_values().clone();
      adapter.flat_values()[5].fill_(kNan);
    }
    return false;
  });
  trainer.on_progress([&](const Progress& progress) {
    done = progress.step;
    if (done != 4) return;
    const at::NoGradGuard no_grad;
    EXPECT_EQ(adapter.flat_values().ne(before).sum().item<int64_t>(), 1);
    adapter.flat_values().copy_(before);
  });
  trainer.save_when([] { return true; });
  EXPECT_TRUE(trainer.run());
  EXPECT_EQ(trainer.log().size(), 5u);
  for (const char* name : {"exp_avg", "exp_avg_sq"}) {
    EXPECT_TRUE(moments(3).tensor(name).equal(moments(4).tensor(name))) << name;
    EXPECT_FALSE(moments(4).tensor(name).equal(moments(5).tensor(name))) << name;
  }
  const auto values = [&](int step) {
    return TensorFile::open(folder_ / ("out/checkpoint-" + std::to_string(step) + "/adapter_model.safetensors"));
  };
  const TensorFile third = values(3), fourth = values(4);
  for (const TensorInfo& info : third.tensors())
    EXPECT_TRUE(third.tensor(info.name).equal(fourth.tensor(info.name))) << info.name;

  // The rows of the fourth window by their numbers in the file.
  std::vector<int64_t> numbers;
  const auto order = epoch_order(40, 42, 0, true);
  for (size_t i = 12; i < 16; ++i) numbers.push_back(order[i] + 1);
  std::sort(numbers.begin(), numbers.end());
  EXPECT_TRUE(contains(message("skipped"), "step 4: skipped, loss nan, gradient norm nan, rows " +
                                               std::to_string(numbers[0]) + ", " + std::to_string(numbers[1]) + ", " +
                                               std::to_string(numbers[2]) + " and " + std::to_string(numbers[3])));
  EXPECT_FALSE(message("1 steps were skipped").empty());
}

// The loss alone may be finite. The gradient of the steps that `broken` names is not.
class BrokenGradients : public Numbers {
 protected:
  bool train(const std::function<bool(int64_t step)>& broken) {
    const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
    const Adapter adapter = Adapter::create(model, {.r = 4, .target_modules = StringList{"W_pack"}}, 7);
    Trainer trainer = this->trainer(adapter, model);
    int64_t done = 0;
    trainer.on_progress([&](const Progress& progress) { done = progress.step; });
    trainer.stop_when([&] {  // asked before every micro-batch, which adds to what is there
      if (broken(done + 1))
        adapter.parameters()[0].mutable_grad().view(-1)[0].fill_(std::numeric_limits<float>::infinity());
      return false;
    });
    return trainer.run();
  }
};

TEST_F(BrokenGradients, AreSkippedThoughTheLossIsFinite) {
  EXPECT_TRUE(train([](int64_t step) { return step == 3; }));
  const std::string line = message("skipped");
  EXPECT_TRUE(contains(line, "step 3: skipped, loss "));
  EXPECT_TRUE(contains(line, ", gradient norm inf, rows "));
  EXPECT_EQ(line.find("loss nan"), line.npos);
  EXPECT_EQ(line.find("loss inf"), line.npos);
  EXPECT_FALSE(message("1 steps were skipped").empty());
}

TEST_F(BrokenGradients, NineInARowTwiceAreEndured) {
  config_.max_steps = 20;
  EXPECT_TRUE(train([](int64_t step) { return step != 10 && step != 20; }));
  EXPECT_FALSE(message("18 steps were skipped").empty());
}

TEST_F(BrokenGradients, TenInARowEndTheRun) {
  config_.max_steps = 20;
  try {
    train([](int64_t step) { return step > 2; });
    ADD_FAILURE() << "went on";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kDiverged);
    EXPECT_TRUE(contains(error.what(), "step 12: the loss or the gradient was not finite 10 steps in a row"));
  }
}

TEST_F(Numbers, ValuesThatBecomeNanAreNotSavedOverTheLastCheckpoint) {
  const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
  const Adapter adapter = Adapter::create(model, {.r = 4, .target_modules = StringList{"W_pack"}}, 7);
  Trainer trainer = this->trainer(adapter, model);
  trainer.on_progress([&](const Progress& progress) {
    const at::NoGradGuard no_grad;
    if (progress.step == 3) adapter.flat_values()[0].fill_(kNan);
  });
  try {
    trainer.run();
    ADD_FAILURE() << "saved";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kDiverged);
    EXPECT_TRUE(contains(error.what(), "step 4: trained values are not finite numbers; not saved"));
  }
  const auto newest = newest_checkpoint(folder_ / "out", {});
  ASSERT_TRUE(newest);
  EXPECT_EQ(newest->step, 2);
  EXPECT_FALSE(fs::exists(folder_ / "out/adapter_model.safetensors"));
}

TEST_F(Numbers, OnlyTheRowsOfTheBrokenMicroBatchAreNamed) {
  config_.save_steps = 0;
  const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
  const Adapter adapter = Adapter::full(model);
  {
    const at::NoGradGuard no_grad;
    adapter.named_parameters()[0].value[50].fill_(kNan);  // of the embedding: rows with token 50
  }
  Trainer trainer = this->trainer(adapter, model);
  EXPECT_TRUE(contains(error_of<Error>([&] { trainer.run(); }), "not finite"));
  const Dataset data = rows();
  ASSERT_FALSE(message("skipped").empty());
  for (const std::string& line : messages_) {
    const size_t at = line.find("rows ");
    if (line.find(": skipped, loss nan") == std::string::npos || at == std::string::npos) continue;
    bool holds = false;
    std::istringstream words(line.substr(at + 5));
    for (std::string word; words >> word;)
      if (const int64_t number = std::atoll(word.c_str())) {
        const auto ids = data[number - 1].input_ids;
        holds = holds || std::find(ids.begin(), ids.end(), 50) != ids.end();
      }
    EXPECT_TRUE(holds) << line;
  }
}

TEST_F(Numbers, ABrokenBaseIsNamed) {
  change_base("model.layers.1.mlp.up_proj.weight", [](at::Tensor& weight) { weight[3][4] = kNan; });
  const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
  const Adapter adapter = Adapter::create(model, {.r = 4, .target_modules = "all-linear"}, 7);
  EXPECT_TRUE(
      contains(error_of<UserError>([&] { trainer(adapter, model).run(); }),
               "model.safetensors: tensor 'model.layers.1.mlp.up_proj.weight': expected finite values, got NaN"));
  EXPECT_FALSE(fs::exists(folder_ / "out/adapter_model.safetensors"));
}

TEST_F(Numbers, EveryAdapterMustHaveAGradient) {
  change_base("model.layers.1.self_attn.o_proj.weight", [](at::Tensor& weight) { weight.zero_(); });
  const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
  const Adapter adapter = Adapter::create(model, {.r = 4, .target_modules = StringList{"W_pack", "down_proj"}}, 7);
  EXPECT_TRUE(contains(error_of<UserError>([&] { trainer(adapter, model).run(); }),
                       "model.layers.1.self_attn.W_pack: expected a gradient in the first step, got zeros"));
}

TEST_F(Numbers, EveryParameterMustHaveAGradient) {
  change_base("model.layers.0.mlp.gate_proj.weight", [](at::Tensor& weight) { weight.zero_(); });
  const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
  const Adapter adapter = Adapter::full(model);
  EXPECT_TRUE(contains(error_of<UserError>([&] { trainer(adapter, model).run(); }), "expected a gradient"));
}

// Rows of two tokens ask nothing of queries and keys: no reason to stop.
TEST_F(Numbers, RowsOfTwoTokensAndBatchesOfOneTrain) {
  std::ofstream(folder_ / "rows.jsonl") << "{\"input_ids\": [5, 6]}\n{\"input_ids\": [7, 8]}\n";
  testing::write_tiny_model(folder_ / "model", {.baichuan = false, .vocabulary = kVocabulary});
  config_.per_device_train_batch_size = config_.gradient_accumulation_steps = 1;
  const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
  const Adapter adapter = Adapter::create(model, {.r = 4, .target_modules = StringList{"q_proj", "v_proj"}}, 7);
  EXPECT_TRUE(trainer(adapter, model).run());
}

TEST_F(Numbers, AbsurdRatesEndInOrder) {
  for (const double rate : {1e6, 1e30}) {
    config_.learning_rate = rate;
    config_.max_steps = 30;
    const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
    const Adapter adapter =
        Adapter::create(model, {.r = 4, .lora_alpha = 1e9, .target_modules = StringList{"W_pack"}}, 7);
    try {
      trainer(adapter, model).run();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kDiverged) << error.what();
    }
    for (const Checkpoint& checkpoint : list_checkpoints(folder_ / "out"))
      for (const char* name : {"adapter_model.safetensors", "optimizer.safetensors"}) {
        const TensorFile file = TensorFile::open(checkpoint.path / name);
        for (const TensorInfo& info : file.tensors())
          EXPECT_TRUE(file.tensor(info.name).isfinite().all().item<bool>()) << checkpoint.path << " " << info.name;
      }
    fs::remove_all(folder_ / "out");
  }
}

}  // namespace
}  // namespace rankfold
