// Evaluation while a run trains: when, what the log holds, the best step and early stopping, and that a run which was ended
// at any point finds the same.
#include "rankfold/rankfold.h"

#include "checkpoint/checkpoint.h"
#include "core/json.h"
#include "support/contains.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"
#include "support/tiny_tokenizer.h"
#include "train/lineage.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <fstream>
#include <set>

namespace rankfold {
namespace {

namespace fs = std::filesystem;
using testing::contains;
using testing::kPieces;
using testing::read_bytes;
using testing::TempFolder;

class Evaluations : public ::testing::Test {
 protected:
  static constexpr int64_t kSteps = 10;  // 19 rows in windows of 4: an epoch has 5

  Evaluations() {
    testing::write_tiny_model(folder_ / "model", {.vocabulary = kPieces});
    testing::train_tokenizer(folder_ / "model");
    testing::write_tiny_rows(folder_ / "rows.jsonl", 19, kPieces);
    testing::write_tiny_rows(folder_ / "held_out.jsonl", 9, kPieces, 5);
    testing::write_tiny_rows(folder_ / "others.jsonl", 9, kPieces, 6);
  }
  Dataset rows(const char* name) const { return Dataset::open(folder_ / name, nullptr, {.max_length = 64}, kPieces); }
  TrainConfig config_of(const std::string& name) const {
    TrainConfig config;
    config.output_dir = (folder_ / name).string();
    config.per_device_train_batch_size = 2;
    config.gradient_accumulation_steps = 2;
    config.max_steps = kSteps;
    config.learning_rate = 0.05;  // after some steps the held-out loss rises
    config.logging_steps = 3;
    config.save_steps = 0;
    config.eval_steps = 2;
    config.eval_samples = 2;
    config.eval_max_new_tokens = 4;
    return config;
  }
  bool run(const TrainConfig& config, const char* held_out = "held_out.jsonl", const Stop& stop = {},
           const std::function<void(StepView&)>& after = {}) {
    const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
    const Adapter adapter =
        Adapter::create(model, {.r = 4, .lora_dropout = 0.1, .target_modules = StringList{"W_pack", "down_proj"}}, 7);
    Trainer trainer(model, adapter, rows("rows.jsonl"), config);
    if (held_out) trainer.evaluate_on(rows(held_out));
    said_.clear();
    trainer.on_message([this](const std::string& line) { said_ += line + "\n"; });
    if (stop) trainer.stop_when(stop);
    if (after) trainer.after_step(after);
    const bool done = trainer.run();
    log_ = trainer.log();
    samples_ = trainer.samples();
    return done;
  }
  std::vector<int64_t> evaluated() const {
    std::vector<int64_t> steps;
    for (const LogRow& row : log_)
      if (row.metric("eval_loss")) steps.push_back(row.step);
    return steps;
  }
  // The step of the lowest loss from the log.
  int64_t best_step() const {
    const LogRow* best = nullptr;
    for (const LogRow& row : log_)
      if (row.step > 0 && row.metric("eval_loss") && (!best || *row.metric("eval_loss") < *best->metric("eval_loss")))
        best = &row;
    return best->step;
  }
  std::set<int64_t> checkpoints(const std::string& name) const {
    std::set<int64_t> steps;
    for (const Checkpoint& checkpoint : list_checkpoints(folder_ / name)) steps.insert(checkpoint.step);
    return steps;
  }
  // By the newest checkpoint.
  int64_t best_in_folder(const std::string& name) const {
    const fs::path newest = list_checkpoints(folder_ / name).front().path;
    return read_json(newest / "trainer_state.json")["best_global_step"];
  }
  nlohmann::json state_in(const fs::path& folder) const { return read_json(folder_ / folder / "trainer_state.json"); }
  std::string adapter_in(const fs::path& folder) const {
    return read_bytes(folder_ / folder / "adapter_model.safetensors");
  }
  void expect_as_whole(const std::string& name) const {
    EXPECT_EQ(state_in(name), state_in("whole"));
    EXPECT_EQ(adapter_in(name), adapter_in("whole"));
    EXPECT_EQ(read_bytes(folder_ / name / "eval_samples.jsonl"), read_bytes(folder_ / "whole/eval_samples.jsonl"));
    const std::string best = "checkpoint-" + std::to_string(state_in("whole")["best_global_step"].get<int64_t>());
    EXPECT_EQ(adapter_in(name + "/" + best), adapter_in("whole/" + best));
  }

  TempFolder folder_;
  std::vector<LogRow> log_;
  std::vector<SampleAnswer> samples_;
  std::string said_;
};

TEST_F(Evaluations, ComeWhenTheyAreDue) {
  TrainConfig config = config_of("steps");
  EXPECT_TRUE(run(config));
  EXPECT_EQ(evaluated(), (std::vector<int64_t>{2, 4, 6, 8, 10}));
  config.output_dir = (folder_ / "share").string();
  config.eval_steps = 0.35;  // of 10 steps, rounded up; and the last
  config.eval_on_start = true;
  EXPECT_TRUE(run(config));
  EXPECT_EQ(evaluated(), (std::vector<int64_t>{0, 4, 8, 10}));
  config.output_dir = (folder_ / "epochs").string();
  config.eval_on_start = false;
  config.eval_strategy = "epoch";
  EXPECT_TRUE(run(config));
  EXPECT_EQ(evaluated(), (std::vector<int64_t>{5, 10}));
  config.output_dir = (folder_ / "auto").string();
  config.eval_strategy = "auto";
  config.eval_steps = 0;
  EXPECT_TRUE(run(config));
  EXPECT_EQ(evaluated(), (std::vector<int64_t>{5, 10}));
  config.output_dir = (folder_ / "logging").string();
  config.eval_strategy = "steps";  // every logging_steps
  EXPECT_TRUE(run(config));
  EXPECT_EQ(evaluated(), (std::vector<int64_t>{3, 6, 9, 10}));
  config.output_dir = (folder_ / "no").string();
  config.eval_strategy = "no";
  EXPECT_TRUE(run(config));
  EXPECT_EQ(evaluated(), (std::vector<int64_t>{}));
}

TEST_F(Evaluations, MeasureTheAdapterOfTheirStep) {
  TrainConfig config = config_of("run");
  config.save_steps = 2;
  EXPECT_TRUE(run(config));
  const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
  const Adapter adapter = Adapter::load(model, folder_ / "run/checkpoint-6");
  const double loss = evaluate(model, rows("held_out.jsonl"), 3).loss;
  const nlohmann::json state = state_in("run");
  const auto row = std::find_if(state["log_history"].begin(), state["log_history"].end(),
                                [](const auto& entry) { return entry["step"] == 6 && entry.contains("eval_loss"); });
  ASSERT_NE(row, state["log_history"].end());
  EXPECT_NEAR((*row)["eval_loss"].get<double>(), loss, 1e-6 * loss);
  EXPECT_FALSE(row->contains("eval_runtime"));  // equal runs have equal files
  EXPECT_EQ(state["eval_steps"], 2);
  std::ifstream lines(folder_ / "run/train_log.jsonl");
  bool found = false;
  for (std::string line; std::getline(lines, line);)
    if (const auto entry = nlohmann::json::parse(line); entry.contains("eval_loss")) {
      found = true;
      for (const char* name : {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second"})
        EXPECT_GT(entry[name].get<double>(), 0) << name;
    }
  EXPECT_TRUE(found);
}

TEST_F(Evaluations, AnswerSamples) {
  EXPECT_TRUE(run(config_of("run")));
  ASSERT_EQ(samples_.size(), 10u);  // two at each of five
  const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
  const Adapter adapter = Adapter::load(model, folder_ / "run");
  const Example row = rows("held_out.jsonl")[0];
  std::vector<int32_t> prompt, answer;
  for (size_t i = 0; i < row.labels.size(); ++i)
    (row.labels[i] == kIgnoreIndex ? prompt : answer).push_back(row.input_ids[i]);
  const SampleAnswer& last = samples_[8];
  EXPECT_EQ(last.step, 10);
  EXPECT_EQ(last.prompt, model.tokenizer().decode(prompt));
  EXPECT_EQ(last.expected, model.tokenizer().decode(answer));
  EXPECT_EQ(last.answer, model.tokenizer().decode(generate(model, {prompt}, {.max_new_tokens = 4})[0]));
  std::ifstream lines(folder_ / "run/eval_samples.jsonl");
  size_t count = 0;
  for (std::string line; std::getline(lines, line); ++count)
    EXPECT_EQ(nlohmann::json::parse(line)["answer"], samples_[count].answer);
  EXPECT_EQ(count, samples_.size());
}

TEST_F(Evaluations, KeepTheBestApartFromRotation) {
  TrainConfig config = config_of("run");
  config.save_steps = 1;
  config.save_total_limit = 1;
  config.load_best_model_at_end = true;
  EXPECT_TRUE(run(config));
  const int64_t best = best_step();
  ASSERT_LT(best, kSteps);  // or nothing is shown
  EXPECT_EQ(checkpoints("run"), (std::set<int64_t>{best, kSteps}));
  const nlohmann::json state = state_in("run");
  EXPECT_EQ(state["best_global_step"], best);
  EXPECT_EQ(state["best_model_checkpoint"], "checkpoint-" + std::to_string(best));
  EXPECT_EQ(state["global_step"], kSteps);
  EXPECT_EQ(adapter_in("run"), adapter_in("run/checkpoint-" + std::to_string(best)));
  EXPECT_NE(adapter_in("run"), adapter_in("run/checkpoint-10"));
  EXPECT_TRUE(contains(said_, "the result is that of the best eval_loss"));
  const nlohmann::json manifest = read_json(folder_ / "run/manifest.json");
  EXPECT_EQ(manifest["step"], kSteps);
  EXPECT_EQ(manifest["step_of_values"], best);
  EXPECT_EQ(lineage_of(folder_ / "model", folder_ / "run").parents.at(0).step, best);
  const std::string at = "The values here are those of step " + std::to_string(best) + ".";
  EXPECT_TRUE(contains(read_bytes(folder_ / "run/README.md"), at));
  EXPECT_FALSE(contains(read_bytes(folder_ / "run/checkpoint-10/README.md"), "The values here"));

  config.output_dir = (folder_ / "last").string();
  config.save_steps = 0;
  config.load_best_model_at_end = false;
  EXPECT_TRUE(run(config));
  EXPECT_EQ(adapter_in("last"), adapter_in("run/checkpoint-10"));
  EXPECT_FALSE(read_json(folder_ / "last/manifest.json").contains("step_of_values"));
  EXPECT_EQ(checkpoints("last"), (std::set<int64_t>{best, kSteps}));  // whatever save_steps is
}

TEST_F(Evaluations, RefuseABestThatIsNotWhole) {
  TrainConfig config = config_of("run");
  config.load_best_model_at_end = true;
  try {
    run(config, "held_out.jsonl", {}, [&](StepView& step) {
      if (step.progress().step < kSteps) return;
      const int64_t best = best_in_folder("run");
      folder_.write("run/checkpoint-" + std::to_string(best) + "/adapter_model.safetensors", "broken");
    });
    FAIL() << "accepted";
  } catch (const UserError& error) {
    EXPECT_TRUE(contains(error.what(), "expected a whole checkpoint, but adapter_model.safetensors differs"));
  }
  EXPECT_FALSE(fs::exists(folder_ / "run/adapter_model.safetensors"));
  config.resume_from_checkpoint = "auto";
  EXPECT_TRUE(run(config));
  EXPECT_TRUE(contains(said_, "has no whole checkpoint"));
}

TEST_F(Evaluations, EndARunThatGetsNoBetter) {
  TrainConfig config = config_of("run");
  config.eval_steps = 1;
  config.max_steps = 40;
  config.early_stopping_patience = 3;
  config.load_best_model_at_end = true;
  EXPECT_TRUE(run(config));
  const int64_t best = best_step(), last = log_.back().step;
  ASSERT_LT(last, 40);
  EXPECT_EQ(last, best + 3);
  EXPECT_TRUE(contains(said_, "early stopping at step " + std::to_string(last)));
  EXPECT_EQ(adapter_in("run"), adapter_in("run/checkpoint-" + std::to_string(best)));

  config.resume_from_checkpoint = "auto";
  EXPECT_TRUE(run(config));  // it has ended
  EXPECT_EQ(log_.back().step, last);
  config.early_stopping_patience = 0;
  config.max_steps = last + 2;
  EXPECT_TRUE(run(config));
  EXPECT_EQ(log_.back().step, last + 2);
}

TEST_F(Evaluations, AreTheSameWhereverARunIsEnded) {
  TrainConfig config = config_of("whole");
  config.load_best_model_at_end = true;
  config.save_total_limit = 1;
  config.eval_on_start = true;
  EXPECT_TRUE(run(config));
  const int64_t best = best_step();
  ASSERT_LT(best, kSteps);
  int64_t questions = 0;
  config.output_dir = (folder_ / "count").string();
  EXPECT_TRUE(run(config, "held_out.jsonl", [&] { return ++questions < 0; }));
  for (int64_t end = 0; end < questions; end += 11) {
    const std::string name = "ended-" + std::to_string(end);
    config.output_dir = (folder_ / name).string();
    config.resume_from_checkpoint = "";
    int64_t asked = 0;
    try {
      if (run(config, "held_out.jsonl", [&] { return asked++ == end; })) continue;
    } catch (const Stopped&) {  // before the first step
      continue;
    }
    config.resume_from_checkpoint = "auto";
    EXPECT_TRUE(run(config)) << end;
    expect_as_whole(name);
    fs::remove_all(folder_ / name);
  }
}

TEST_F(Evaluations, BringTheBestIntoAnotherFolder) {
  TrainConfig config = config_of("whole");
  config.load_best_model_at_end = true;
  EXPECT_TRUE(run(config));
  const int64_t best = best_step();
  ASSERT_LT(best, kSteps - 1);
  config.output_dir = (folder_ / "first").string();
  EXPECT_FALSE(run(config, "held_out.jsonl", {}, [&](StepView& step) {
    if (step.progress().step == best + 1) step.stop();
  }));
  config.output_dir = (folder_ / "second").string();
  fs::create_directories(folder_ / "second" / ("checkpoint-" + std::to_string(best)));  // of somebody else
  config.resume_from_checkpoint = (folder_ / "first" / ("checkpoint-" + std::to_string(best + 1))).string();
  EXPECT_TRUE(run(config));
  expect_as_whole("second");
  EXPECT_TRUE(fs::exists(folder_ / "second" / ("checkpoint-" + std::to_string(best) + "-of-unknown")));

  fs::remove_all(folder_ / "first" / ("checkpoint-" + std::to_string(best)));
  config.output_dir = (folder_ / "third").string();
  EXPECT_TRUE(run(config));
  EXPECT_TRUE(contains(said_, "has no whole checkpoint"));
  EXPECT_GT(state_in("third")["best_global_step"].get<int64_t>(), best);
}

TEST_F(Evaluations, ForgetABestOfOtherRows) {
  TrainConfig config = config_of("run");
  EXPECT_FALSE(run(config, "held_out.jsonl", {}, [](StepView& step) {
    if (step.progress().step == 3) step.stop();
  }));
  config.resume_from_checkpoint = "auto";
  EXPECT_TRUE(run(config, "others.jsonl"));
  EXPECT_TRUE(contains(said_, "was found on other held-out rows"));
  EXPECT_GT(state_in("run")["best_global_step"].get<int64_t>(), 3);
}

TEST_F(Evaluations, MayGoByAMetricOfACallback) {
  TrainConfig config = config_of("run");
  config.metric_for_best_model = "accuracy";  // the higher the better, as it is no loss
  const auto measures = [](StepView& step) {
    const int64_t at = step.progress().step;
    if (at % 2 == 0) step.log({{"eval_accuracy", at == 4 ? 0.9 : 0.5}});
  };
  EXPECT_TRUE(run(config, "held_out.jsonl", {}, measures));
  EXPECT_EQ(state_in("run")["best_global_step"], 4);
  EXPECT_EQ(state_in("run")["best_metric"], 0.9);
  EXPECT_TRUE(
      contains(read_bytes(folder_ / "run/README.md"), "the best eval_accuracy on held-out rows was 0.9, at step 4"));
  EXPECT_TRUE(contains(said_, "  best eval_accuracy 0.9000 at step 4\n"));
  config.output_dir = (folder_ / "lacks").string();
  try {
    run(config, "held_out.jsonl", {}, [](StepView&) {});
    FAIL() << "accepted";
  } catch (const UserError& error) {
    EXPECT_STREQ(error.what(),
                 "metric_for_best_model: expected a metric of the evaluation (eval_loss, eval_runtime, "
                 "eval_samples_per_second, eval_steps_per_second), got eval_accuracy");
  }
}

TEST_F(Evaluations, ANumberThatIsNotFiniteIsNoBest) {
  TrainConfig config = config_of("run");
  config.metric_for_best_model = "accuracy";
  const auto measures = [](StepView& step) {
    const int64_t at = step.progress().step;
    if (at % 2 == 0) step.log({{"eval_accuracy", at == 2 ? NAN : at == 8 ? INFINITY : 0.5}});
    if (at == 3) step.stop();
  };
  EXPECT_FALSE(run(config, "held_out.jsonl", {}, measures));
  EXPECT_TRUE(state_in("run/checkpoint-3")["best_global_step"].is_null());
  config.resume_from_checkpoint = "auto";
  EXPECT_TRUE(run(config, "held_out.jsonl", {}, measures));
  EXPECT_EQ(state_in("run")["best_global_step"], 4);
}

TEST_F(Evaluations, NeedRows) {
  const auto refusal = [&](const std::function<void(TrainConfig&)>& change, const char* held_out) -> std::string {
    TrainConfig config = config_of("refused");
    change(config);
    try {
      run(config, held_out);
    } catch (const UserError& error) {
      EXPECT_FALSE(fs::exists(folder_ / "refused"));
      return error.what();
    }
    return "accepted";
  };
  const std::string rest = ": expected held-out rows with it (eval_dataset or val_size), got none";
  EXPECT_EQ(refusal([](TrainConfig& c) { c.eval_strategy = "epoch"; }, nullptr), "eval_strategy" + rest);
  EXPECT_EQ(refusal([](TrainConfig& c) { c.eval_on_start = true; }, nullptr), "eval_on_start" + rest);
  EXPECT_EQ(refusal([](TrainConfig& c) { c.load_best_model_at_end = true; }, nullptr), "load_best_model_at_end" + rest);
  EXPECT_EQ(refusal([](TrainConfig& c) { c.early_stopping_patience = 2; }, nullptr), "early_stopping_patience" + rest);
  EXPECT_EQ(refusal([](TrainConfig&) {}, nullptr), "eval_steps" + rest);
  EXPECT_EQ(refusal(
                [](TrainConfig& c) {
                  c.eval_on_start = true;
                  c.eval_strategy = "no";
                },
                "held_out.jsonl"),
            "eval_on_start: expected eval_strategy steps or epoch with it, got no");
  EXPECT_EQ(refusal(
                [](TrainConfig& c) {
                  c.early_stopping_patience = 2;
                  c.eval_strategy = "no";
                },
                "held_out.jsonl"),
            "early_stopping_patience: expected eval_strategy steps or epoch with it, got no");
  EXPECT_EQ(refusal([](TrainConfig& c) { c.metric_for_best_model = "f1"; }, "held_out.jsonl"),
            "metric_for_best_model: expected eval_loss, or a metric that a callback logs, got f1");
  // What a dry run asks for.
  const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
  Trainer trainer(model, Adapter::create(model, {.target_modules = "all-linear"}), rows("rows.jsonl"),
                  config_of("dry"));
  EXPECT_THROW(trainer.memory_plan(), UserError);
  trainer.evaluate_on(rows("held_out.jsonl"));
  EXPECT_NE(trainer.memory_plan(), "");
}

}  // namespace
}  // namespace rankfold
