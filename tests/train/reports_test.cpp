// What a run shows of itself: its page, the picture of its loss and TensorBoard's event file.
#include "rankfold/rankfold.h"

#include "core/file.h"
#include "report/event_records.h"
#include "support/contains.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"
#include "train/log_row.h"
#include "train/run_page.h"
#include "train/stepper.h"

#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <chrono>
#include <cmath>
#include <fstream>
#include <iostream>

namespace rankfold {
namespace {

namespace fs = std::filesystem;
using testing::contains;
using testing::kVocabulary;
using testing::read_bytes;
using testing::TempFolder;

class Reports : public ::testing::Test {
 protected:
  Reports() {
    testing::write_tiny_model(folder_ / "model", {.vocabulary = kVocabulary});
    testing::write_tiny_rows(folder_ / "rows.jsonl", 19, kVocabulary);
  }
  Dataset rows() const { return Dataset::open(folder_ / "rows.jsonl", nullptr, {.max_length = 64}, kVocabulary); }
  TrainConfig config(const std::string& name, int64_t steps) const {
    TrainConfig config;
    config.output_dir = (folder_ / name).string();
    config.per_device_train_batch_size = 2;
    config.max_steps = steps;
    config.learning_rate = 5e-3;
    config.logging_steps = 1;
    config.save_steps = 3;
    config.report_to = "tensorboard";
    return config;
  }
  void run(const TrainConfig& config) {
    const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
    const Adapter adapter = Adapter::create(model, {.r = 4, .target_modules = "all-linear"}, 7);
    Trainer trainer(model, adapter, rows(), config);
    trainer.add_file("rankfold_config.json", R"({"r": 4, "seed": 42, "learning_rate": 0.005})");
    said_.clear();
    trainer.on_message([this](const std::string& line) { said_ += line + "\n"; });
    trainer.after_step([](StepView& step) {
      if (step.progress().step % 4 == 0) step.log({{"eval_loss", 1.5}, {"<noted>", int64_t{3}}});
    });
    EXPECT_TRUE(trainer.run());
  }
  std::vector<fs::path> event_files(const std::string& name) const {
    std::vector<fs::path> files;
    if (!fs::exists(folder_ / name / "runs")) return files;
    for (const auto& entry : fs::recursive_directory_iterator(folder_ / name / "runs"))
      if (entry.is_regular_file()) files.push_back(entry.path());
    return files;
  }
  // Of the one event file.
  std::vector<EventTime> events(const std::string& name) const {
    const std::vector<fs::path> files = event_files(name);
    EXPECT_EQ(files.size(), 1u);
    if (files.empty()) return {};
    EXPECT_TRUE(contains(files[0].filename().string(), "events.out.tfevents."));
    return event_times(read_bytes(files[0]));
  }
  std::vector<int64_t> steps_of_log(const std::string& name) const {
    std::vector<int64_t> steps;
    std::ifstream log(folder_ / name / "train_log.jsonl");
    for (std::string line; std::getline(log, line);) steps.push_back(nlohmann::json::parse(line)["step"]);
    return steps;
  }
  void expect_events_of_the_log(const std::string& name) const {
    std::vector<int64_t> steps;
    for (const EventTime& event : events(name)) steps.push_back(event.step);
    EXPECT_EQ(steps, steps_of_log(name));
  }
  size_t times_said(const std::string& part) const {
    size_t count = 0;
    for (size_t at = said_.find(part); at != std::string::npos; at = said_.find(part, at + 1)) ++count;
    return count;
  }

  TempFolder folder_;
  std::string said_;
};

TEST_F(Reports, AreThereAtTheEnd) {
  run(config("out", 8));
  EXPECT_EQ(steps_of_log("out").size(), 10u);
  expect_events_of_the_log("out");
  const std::string page = read_bytes(folder_ / "out/report.html");
  for (const char* part : {"8 / 8", "Evaluation", "eval_loss", "Learning rate", "Norms of the updates", "&lt;noted&gt;",
                           ">W_pack</text>", ">0.005</td>", ">default<", ">Messages<"})
    EXPECT_TRUE(page.find(part) != std::string::npos) << part;
  EXPECT_EQ(page.find("<noted>"), std::string::npos);
  EXPECT_TRUE(read_bytes(folder_ / "out/training_loss.svg").starts_with("<svg "));
}

TEST_F(Reports, WithoutTensorBoardHaveNoEventFile) {
  TrainConfig settings = config("out", 4);
  settings.report_to = "none";
  run(settings);
  EXPECT_FALSE(fs::exists(folder_ / "out/runs"));
  EXPECT_TRUE(fs::exists(folder_ / "out/report.html"));
}

// Rows beyond the checkpoint are forgotten, those before it keep their time.
TEST_F(Reports, OfAResumedRunHoldEachRowOnce) {
  run(config("out", 8));
  const std::vector<EventTime> before = events("out");
  const fs::path first_file = event_files("out").at(0);
  TrainConfig settings = config("out", 10);
  settings.resume_from_checkpoint = (folder_ / "out/checkpoint-3").string();
  run(settings);
  EXPECT_EQ(steps_of_log("out"), (std::vector<int64_t>{1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9, 10}));
  expect_events_of_the_log("out");
  const std::vector<EventTime> after = events("out");
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(after.at(i).wall_time, before.at(i).wall_time) << i;
  EXPECT_GT(after.at(3).wall_time, before.back().wall_time);
  EXPECT_GT(event_files("out").at(0), first_file);  // which a TensorBoard that is open goes on to
  // A fresh start forgets all.
  run(config("out", 2));
  EXPECT_EQ(steps_of_log("out"), (std::vector<int64_t>{1, 2}));
  expect_events_of_the_log("out");
}

TEST_F(Reports, DoNotEndARunThatCannotWriteThem) {
  fs::create_directories(folder_ / "out/report.html");
  folder_.write("out/runs", "a file");
  run(config("out", 8));
  EXPECT_EQ(times_said("going on without report.html: "), 1u) << said_;
  EXPECT_EQ(times_said("going on without the event file: "), 1u) << said_;
  EXPECT_EQ(steps_of_log("out").size(), 10u);
  EXPECT_TRUE(fs::exists(folder_ / "out/adapter_model.safetensors"));
}

TEST_F(Reports, NormsAreThoseOfTheUpdates) {
  const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
  const LoraConfig lora = {.r = 4, .lora_alpha = 6, .target_modules = "all-linear", .rank_pattern = {{"W_pack", 3}}};
  const Adapter adapter = Adapter::create(model, lora, 7);
  {
    at::NoGradGuard no_grad;
    adapter.flat_values().normal_();
  }
  const std::vector<RunReport::ModuleNorm> norms = update_norms(adapter);
  ASSERT_EQ(norms.size(), adapter.modules().size());
  std::map<std::string, at::Tensor> values;
  for (const Parameter& p : adapter.named_parameters()) values[p.name] = p.value.detach().to(at::kDouble);
  for (size_t i = 0; i < norms.size(); ++i) {
    const std::string key = "base_model.model." + adapter.modules()[i];
    const at::Tensor a = values.at(key + ".lora_A.weight"), b = values.at(key + ".lora_B.weight");
    const double exact = b.matmul(a).norm().item<double>() * 6 / static_cast<double>(a.size(0));
    EXPECT_EQ(norms[i].module, adapter.modules()[i]);
    EXPECT_NEAR(norms[i].norm / exact, 1, 1e-5) << key;
  }
}

TEST_F(Reports, OfALongLogAreMadeInNoTime) {
  const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
  const Adapter adapter = Adapter::create(model, {.r = 4, .target_modules = "all-linear"}, 7);
  const TrainConfig settings = config("out", 100000);
  const Stepper steps(model, adapter, rows(), settings, [](const std::string&) {}, {});
  RunLog log;
  for (int64_t i = 1; i <= 100000; ++i)
    log.rows.push_back(make_row(i, 1,
                                {{"loss", 1 + std::sin(static_cast<double>(i))},
                                 {"grad_norm", 1.0},
                                 {"learning_rate", 1e-4},
                                 {"tokens_per_second", 1e3},
                                 {"peak_memory_bytes", i}}));
  const auto start = std::chrono::steady_clock::now();
  const RunReport report = report_of(steps, log, settings, "", {});
  const size_t size = report_html(report).size() + training_loss_svg(report).size();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::cout << "page and picture of a log of 100,000 rows: " << size << " bytes in " << seconds << " s\n";
  EXPECT_LT(size, 500000u);
}

}  // namespace
}  // namespace rankfold
