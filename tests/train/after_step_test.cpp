// The seam after a step: what a callback logs, saves and stops, and that a run which is ended and goes on has the log of
// one that was not.
#include "rankfold/rankfold.h"

#include "checkpoint/checkpoint.h"
#include "core/json.h"
#include "support/contains.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <fstream>
#include <new>

namespace rankfold {
namespace {

namespace fs = std::filesystem;
using testing::contains;
using testing::kVocabulary;
using testing::read_bytes;
using testing::TempFolder;

constexpr int64_t kSteps = 8, kEvery = 2;

class AfterStep : public ::testing::Test {
 protected:
  AfterStep()
      : model_((testing::write_tiny_model(folder_ / "model", {.vocabulary = kVocabulary}),
                CausalLM::load(folder_ / "model", {.device = "cpu"}))) {
    testing::write_tiny_rows(folder_ / "rows.jsonl", 19, kVocabulary);
    testing::write_tiny_rows(folder_ / "held_out.jsonl", 9, kVocabulary, 5);
  }
  Dataset rows(const char* name) const {
    return Dataset::open(folder_ / name, nullptr, {.max_length = 64}, kVocabulary);
  }

  // A trainer that evaluates every kEvery steps; `stop` is what its evaluation asks.
  struct Job {
    std::string name;
    std::string resume = {};
    int64_t save_steps = 0;
    Stop stop = {};
    std::function<void(StepView&)> before = {}, after = {};
  };
  bool run(const Job& job) {
    const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
    const Adapter adapter =
        Adapter::create(model, {.r = 4, .lora_dropout = 0.1, .target_modules = StringList{"W_pack", "down_proj"}}, 7);
    TrainConfig config;
    config.output_dir = (folder_ / job.name).string();
    config.per_device_train_batch_size = 2;
    config.gradient_accumulation_steps = 2;
    config.max_steps = kSteps;
    config.learning_rate = 5e-3;
    config.logging_steps = 3;
    config.save_steps = job.save_steps;
    config.resume_from_checkpoint = job.resume;
    Trainer trainer(model, adapter, rows("rows.jsonl"), config);
    said_.clear();
    trainer.on_message([this](const std::string& line) { said_ += line + "\n"; });
    if (job.before) trainer.after_step(job.before);
    trainer.after_step([&](StepView& step) {
      called_.push_back(step.progress().step);
      if (step.progress().step % kEvery != 0 && !step.is_last()) return;
      const EvalResult measured = evaluate(model, rows("held_out.jsonl"), 2, job.stop);
      step.log({{"eval_loss", measured.loss}, {"eval_tokens", measured.tokens}});
    });
    if (job.after) trainer.after_step(job.after);
    try {
      const bool done = trainer.run();
      log_ = trainer.log();
      return done;
    } catch (...) {
      log_ = trainer.log();
      throw;
    }
  }

  // The rows of the log without what depends on the machine.
  std::string rows_in(const fs::path& log) const {
    std::ifstream in(log);
    std::string text;
    for (std::string line; std::getline(in, line);) {
      nlohmann::ordered_json row = nlohmann::ordered_json::parse(line);
      row.erase("tokens_per_second"), row.erase("peak_memory_bytes");
      text += row.dump() + "\n";
    }
    return text;
  }
  nlohmann::json state_in(const fs::path& folder) const {
    nlohmann::json state = read_json(folder / "trainer_state.json");
    state.erase("save_steps");
    return state;
  }
  void expect_as_whole(const std::string& name) const {
    const auto at = [&](const std::string& run, const char* file) { return folder_ / run / file; };
    EXPECT_EQ(rows_in(at(name, "train_log.jsonl")), rows_in(at("whole", "train_log.jsonl")));
    EXPECT_EQ(state_in(folder_ / name), state_in(folder_ / "whole"));
    const std::string last = "checkpoint-" + std::to_string(kSteps);
    EXPECT_EQ(state_in(folder_ / name / last), state_in(folder_ / "whole" / last));
    EXPECT_EQ(read_bytes(at(name, "adapter_model.safetensors")), read_bytes(at("whole", "adapter_model.safetensors")));
  }

  TempFolder folder_;
  CausalLM model_;
  std::vector<int64_t> called_;
  std::vector<LogRow> log_;
  std::string said_;
};

TEST_F(AfterStep, RowsOfACallbackAreInTheLogAndInTheCheckpointOfTheStep) {
  EXPECT_TRUE(run({.name = "whole", .save_steps = kEvery}));
  EXPECT_EQ(called_, (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8}));
  std::vector<std::pair<int64_t, bool>> kinds;  // step, and whether it is an evaluation
  for (const LogRow& row : log_) {
    kinds.emplace_back(row.step, row.metric("eval_loss").has_value());
    EXPECT_NE(row.metric("eval_loss").has_value(), row.metric("loss").has_value());
  }
  EXPECT_EQ(kinds, (decltype(kinds){{2, true}, {3, false}, {4, true}, {6, false}, {6, true}, {8, true}}));
  const nlohmann::json kept = read_json(folder_ / "whole/checkpoint-6/training_state.json");
  ASSERT_EQ(kept["log"].size(), 5u);
  EXPECT_EQ(kept["log"][4]["eval_loss"], *log_[4].metric("eval_loss"));
  EXPECT_FALSE(kept.contains("callbacks_are_due"));
  const nlohmann::json state = read_json(folder_ / "whole/trainer_state.json");
  EXPECT_EQ(state["log_history"][5]["eval_loss"], *log_[5].metric("eval_loss"));
  EXPECT_TRUE(state["log_history"][5]["eval_tokens"].is_number_integer());
}

// Wherever it is ended: in the callback (between its batches, by a stop or a failure, with a row of another callback made
// already) or after it.
TEST_F(AfterStep, ARunThatGoesOnHasTheLogOfOneThatWasNotEnded) {
  const auto note = [](StepView& step) {
    if (step.progress().step % kEvery == 0) step.log({{"noted", step.progress().step}});
  };
  EXPECT_TRUE(run({.name = "whole", .before = note}));
  for (const int64_t batch : {0, 2, 7, 19}) {  // of the evaluations', 5 in each
    const std::string name = "stopped-" + std::to_string(batch);
    int64_t asked = 0;
    EXPECT_FALSE(run({.name = name, .stop = [&] { return asked++ == batch; }, .before = note}));
    const int64_t step = (batch / 5 + 1) * kEvery;
    EXPECT_TRUE(contains(said_, "stopped at step " + std::to_string(step)));
    called_.clear();
    EXPECT_TRUE(run({.name = name, .resume = "auto", .before = note}));
    EXPECT_EQ(called_.front(), step);  // again, for its row
    expect_as_whole(name);
  }
  for (const int64_t step : {int64_t{3}, int64_t{4}, kSteps}) {
    const std::string name = "failed-" + std::to_string(step);
    const auto fails = [&](StepView& view) {
      if (view.progress().step == step) throw std::bad_alloc();
    };
    EXPECT_THROW(run({.name = name, .before = note, .after = fails}), std::bad_alloc);
    EXPECT_TRUE(contains(said_, "saved step " + std::to_string(step)));
    for (const LogRow& row : log_) EXPECT_FALSE(row.step == step && row.metric("eval_loss"));  // forgotten
    EXPECT_TRUE(run({.name = name, .resume = "auto", .before = note}));
    expect_as_whole(name);
  }
}

TEST_F(AfterStep, SavesAndStopsWhenAsked) {
  EXPECT_TRUE(run({.name = "whole"}));
  const auto asks = [](StepView& step) {
    if (step.progress().step == 3) step.save();
    if (step.progress().step == 5) step.stop();
  };
  EXPECT_FALSE(run({.name = "parts", .after = asks}));
  EXPECT_TRUE(contains(said_, "saved step 3, going on\n"));
  EXPECT_TRUE(contains(said_, "stopped at step 5 of 8"));
  std::vector<int64_t> saved;
  for (const Checkpoint& checkpoint : list_checkpoints(folder_ / "parts")) saved.push_back(checkpoint.step);
  EXPECT_EQ(saved, (std::vector<int64_t>{5, 3}));
  called_.clear();
  EXPECT_TRUE(run({.name = "parts", .resume = "auto"}));
  EXPECT_EQ(called_.front(), 6);
  expect_as_whole("parts");
  EXPECT_TRUE(run({.name = "last", .after = [](StepView& step) {
                     if (step.is_last()) step.stop();
                   }}));
}

TEST_F(AfterStep, ARowHasEveryNameOnce) {
  for (const char* name : {"", "step", "epoch", "eval_loss"})
    EXPECT_THROW(run({.name = std::string("bad-") + name,
                      .before =
                          [&](StepView& step) {
                            step.log({{"eval_loss", 1.0}, {name, 1.0}});
                          }}),
                 std::invalid_argument)
        << name;
}

}  // namespace
}  // namespace rankfold
