// What a plan says of a run, against the run.
#include "rankfold/rankfold.h"

#include "core/check.h"
#include "core/peak_memory.h"
#include "support/contains.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"
#include "train/advice.h"
#include "train/evaluation.h"
#include "train/plan.h"
#include "train/step_times.h"
#include "train/windows.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <numeric>

namespace rankfold {
namespace {

namespace fs = std::filesystem;
using testing::contains;
using testing::kVocabulary;

class PlanTest : public ::testing::Test {
 protected:
  PlanTest() {
    testing::write_tiny_model(folder_ / "model", {.vocabulary = kVocabulary});
    std::string rows;
    for (int i = 0; i < 10; ++i) {
      std::vector<int> ids(static_cast<size_t>(4 + 3 * (i % 9)), 5 + i % 9);  // the last is the first again
      std::vector<int> labels = ids;
      labels[0] = labels[1] = -100;
      rows += nlohmann::json{{"input_ids", ids}, {"labels", labels}}.dump() + "\n";
    }
    folder_.write("rows.jsonl", rows);
    config_.model_name_or_path = (folder_ / "model").string();
    config_.load.device = "cpu";
    config_.lora = {.r = 2, .target_modules = StringList{"W_pack"}};
    config_.train.output_dir = (folder_ / "out").string();
    config_.train.per_device_train_batch_size = 2;
    config_.train.gradient_accumulation_steps = 2;
    config_.train.num_train_epochs = 4;
  }
  Dataset rows() const { return Dataset::open(folder_ / "rows.jsonl", nullptr, {.max_length = 64}, kVocabulary); }
  RunPlan plan() const { return make_plan({.config = config_, .rows = rows(), .measuring_seconds = 0.1}); }

  testing::TempFolder folder_;
  RunConfig config_;
};

TEST_F(PlanTest, CountsTheRunsData) {
  const RunPlan p = plan();
  EXPECT_EQ(p.data.rows, 10);
  EXPECT_EQ(p.data.duplicates, 1);
  EXPECT_EQ(p.data.tokens, 9 * 4 + 3 * 36 + 4);
  EXPECT_EQ(p.data.learnt_tokens, p.data.tokens - 20);
  EXPECT_EQ(p.data.shortest, 4);
  EXPECT_EQ(p.data.longest, 28);
  int64_t counted = 0;
  for (const LengthBin& bin : p.data.lengths) {
    EXPECT_EQ(bin.last - bin.first, p.data.lengths[0].last - p.data.lengths[0].first);
    counted += bin.rows;
  }
  EXPECT_EQ(counted, 10);
  EXPECT_LE(p.data.lengths.size(), 10u);
  EXPECT_EQ(p.steps_per_epoch, 3);
  EXPECT_EQ(p.steps, 12);
  EXPECT_EQ(p.rows_per_step, 4);
  EXPECT_EQ(p.evaluations, 0);
  EXPECT_EQ(p.saves, 2);
}

TEST_F(PlanTest, HasBothMethodsWithTheConfiguredOneFirst) {
  for (const char* method : {"lora", "full"}) {
    config_.finetuning_type = method;
    int64_t heard = 0;
    const RunPlan p = make_plan({.config = config_,
                                 .rows = rows(),
                                 .held_out = rows(),
                                 .measuring_seconds = 0.1,
                                 .on_configured = [&](const CausalLM&, const Adapter& adapter) {
                                   EXPECT_EQ(adapter.is_full(), std::string(method) == "full");
                                   ++heard;
                                 }});
    EXPECT_EQ(heard, 1);
    EXPECT_EQ(p.evaluations, 4);
    ASSERT_EQ(p.methods.size(), 2u);
    EXPECT_STREQ(word_for(kFinetunings, p.methods[0].method), method);
    for (const MethodPlan& m : p.methods) {
      ASSERT_TRUE(m.time);
      EXPECT_GT(m.time->measured, 1);
      EXPECT_GT(m.time->training, 0);
      EXPECT_GT(m.time->evaluation, 0);
      EXPECT_GT(m.time->saving, 0);
      EXPECT_TRUE(m.memory.fits());
    }
    EXPECT_FALSE(fs::exists(folder_ / "out"));
  }
}

// Nothing of full tuning is made to say what it would take.
TEST_F(PlanTest, ABaseInFewerBitsIsNotTunedInFull) {
  config_.load.quantization_bit = 4;
  const RunPlan p = plan();
  ASSERT_EQ(p.methods.size(), 2u);
  EXPECT_TRUE(p.methods[0].time);
  EXPECT_FALSE(p.methods[1].time);
  EXPECT_EQ(p.methods[1].no_time, "full tuning takes a base in 16 or 32 bits");
}

TEST_F(PlanTest, TheMemoryOfFullTuningIsThatOfFullTuning) {
  for (const char* dtype : {"float32", "bfloat16"})
    for (const bool tied : {false, true}) {
      const fs::path folder = folder_ / join(dtype, tied);
      testing::write_tiny_model(folder, {.tied = tied, .vocabulary = 400, .hidden = 64, .dtype = dtype});
      const BatchSize batch{.rows = 4, .tokens = 100, .longest = 30};
      const CausalLM model = CausalLM::load(folder, {.device = "cpu", .dtype = dtype});
      const Adapter adapter = Adapter::create(model, {.r = 2, .target_modules = "all-linear"});
      const auto planned = plan_levels_of_full(*model.shared_model(), adapter, config_.train, batch);
      const CausalLM other = CausalLM::load(folder, {.device = "cpu", .dtype = dtype});
      const Adapter full = Adapter::full(other);
      const auto real = plan_levels(*other.shared_model(), full, config_.train, batch);
      ASSERT_EQ(planned.size(), 3u);
      ASSERT_EQ(real.size(), 3u);
      for (size_t i = 0; i < 3; ++i) {
        SCOPED_TRACE(join(folder.string(), ", level ", i));
        EXPECT_EQ(planned[i].adapter, real[i].adapter);
        EXPECT_EQ(planned[i].optimizer, real[i].optimizer);
        EXPECT_EQ(planned[i].kept, real[i].kept);
        EXPECT_EQ(planned[i].temporary, real[i].temporary);
        EXPECT_EQ(planned[i].mapped + planned[i].copied, real[i].mapped + real[i].copied);
      }
    }
}

TEST_F(PlanTest, WhatDoesNotFitSaysWhatWould) {
  config_.train.memory_budget = "1MB";
  for (const char* method : {"lora", "full"}) {
    config_.finetuning_type = method;
    const RunPlan p = plan();
    for (const MethodPlan& m : p.methods) {
      EXPECT_FALSE(m.memory.fits());
      EXPECT_FALSE(m.time);
      EXPECT_TRUE(contains(m.remedy, "with any batch"));
      EXPECT_EQ(m.no_time, "it does not fit in memory");
    }
  }
  // Between one row and eight: a smaller batch is named, which does fit.
  testing::write_tiny_model(folder_ / "wide", {.vocabulary = kVocabulary, .hidden = 64, .inner = 4096, .layers = 2});
  config_.model_name_or_path = (folder_ / "wide").string();
  config_.finetuning_type = "lora";
  config_.train.per_device_train_batch_size = 8;
  config_.train.memory_budget = "";
  // A plan counts what the process holds: what earlier tests have freed must not leave between one plan and the next.
  const auto total = [&](int64_t rows_together) {
    release_free_memory();
    TrainConfig train = config_.train;
    train.per_device_train_batch_size = rows_together;
    const CausalLM model = CausalLM::load(config_.model_name_or_path, config_.load);
    const Adapter adapter = Adapter::create(model, config_.lora);
    return plan_levels(*model.shared_model(), adapter, train, Windows(rows(), train).largest_batch({})).back().total();
  };
  config_.train.memory_budget = std::to_string((total(8) + total(1)) / 2);
  release_free_memory();
  const RunPlan p = plan();
  EXPECT_FALSE(p.methods[0].memory.fits());
  EXPECT_TRUE(contains(p.methods[0].remedy, "per_device_train_batch_size "));
  EXPECT_TRUE(contains(p.methods[0].remedy, " and gradient_accumulation_steps "));
}

TEST_F(PlanTest, IsLeftWhenItIsToBe) {
  EXPECT_THROW(make_plan({.config = config_, .rows = rows(), .stop = [] { return true; }}), Stopped);
  int64_t asked = 0;  // also while it measures
  EXPECT_THROW(make_plan({.config = config_, .rows = rows(), .stop = [&] { return ++asked > 50; }}), Stopped);
}

TEST_F(PlanTest, Advises) {
  RunPlan p = plan();
  const auto choice = [&](int64_t rows) {
    p.data.rows = rows;
    return advise(p, config_).choice;
  };
  EXPECT_EQ(choice(9'999), "retrieval and prompts");
  EXPECT_EQ(choice(10'000), "lora");
  EXPECT_EQ(choice(100'000), "lora");
  EXPECT_EQ(choice(100'001), "full");
  const auto yours = [&](const std::string& topic) {
    for (const Finding& finding : advise(p, config_).findings)
      if (finding.topic == topic) return finding.yours;
    return std::string();
  };
  EXPECT_TRUE(contains(yours("target_modules"), "W_pack alone: 512 parameters; all-linear trains "));
  EXPECT_TRUE(contains(yours("learning_rate"), "for full tuning try 5e-06"));
  EXPECT_TRUE(contains(yours("batch"), "4 rows a step: moderate"));
  EXPECT_TRUE(contains(yours("r"), "room enough"));
  p.rows_per_step = 512;
  EXPECT_TRUE(contains(yours("batch"), "many; try 64"));
  p.data.learnt_tokens = 1'000'000;
  EXPECT_TRUE(contains(yours("r"), "little room"));
  config_.lora.target_modules = "all-linear";
  p = plan();
  EXPECT_TRUE(contains(yours("target_modules"), "all linear layers"));
}

TEST(StepTimesTest, TimesBetweenThoseThatWereMeasured) {
  TimesByWork times;
  times.add(30, 5);
  times.add(10, 1);
  times.add(20, 3);
  EXPECT_DOUBLE_EQ(times.seconds(15), 2);
  EXPECT_DOUBLE_EQ(times.seconds(20), 3);
  EXPECT_DOUBLE_EQ(times.seconds(25), 4);
  EXPECT_DOUBLE_EQ(times.seconds(5), 1) << "smaller ones are not below what a step costs at least";
  EXPECT_DOUBLE_EQ(times.seconds(60), 10);
  EXPECT_DOUBLE_EQ(times.mean({{{}, 15}, {{}, 25}}), 3);
}

TEST_F(PlanTest, CountsEvaluationsAsTheyAreDue) {
  TrainConfig& config = config_.train;
  config.max_steps = 100;
  config.per_device_train_batch_size = config.gradient_accumulation_steps = 1;
  const auto evaluations = [&] {
    const Evaluation evaluation(rows(), config, StepPlan(30, config), 1000);
    int64_t due = 0;
    for (int64_t step = 0; step <= 100; ++step) due += evaluation.is_due(step);
    EXPECT_EQ(evaluation.count(), due);
    return due;
  };
  EXPECT_EQ(Evaluation(std::nullopt, config, StepPlan(30, config), 1000).count(), 0);
  EXPECT_EQ(evaluations(), 4);
  config.eval_on_start = true;
  EXPECT_EQ(evaluations(), 5);
  config.eval_steps = 50;
  EXPECT_EQ(evaluations(), 3);
  config.eval_steps = 0.1;
  EXPECT_EQ(evaluations(), 11);
  config.eval_steps = 1000;  // the last step, and the start
  EXPECT_EQ(evaluations(), 2);
  config.eval_on_start = false;
  config.eval_strategy = "no";
  EXPECT_EQ(evaluations(), 0);
}

TEST(CountSaves, EachStepThatIsSavedOnce) {
  EXPECT_EQ(count_saves(0, 0, 100), 2);  // the last step, and the result
  for (const int64_t save : {0, 1, 6, 40, 50, 100, 300})
    for (const int64_t interval : {0, 1, 4, 50, 100, 300}) {
      int64_t saves = 1;
      for (int64_t step = 1; step <= 100; ++step)
        saves += step == 100 || (save > 0 && step % save == 0) || (interval > 0 && step % interval == 0);
      EXPECT_EQ(count_saves(save, interval, 100), saves) << save << " " << interval;
    }
  EXPECT_EQ(count_saves(int64_t{1} << 62, (int64_t{1} << 62) - 1, 100), 2);
}

}  // namespace
}  // namespace rankfold
