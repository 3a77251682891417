// lora-train --plan and --list as a person runs them.
#include "cli/run_list.h"
#include "cli/run_program.h"
#include "core/check.h"
#include "core/json.h"
#include "core/write.h"
#include "support/contains.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <set>
#include <sstream>

namespace rankfold {
namespace {

namespace fs = std::filesystem;
using testing::contains;
using testing::Outcome;
using testing::read_bytes;
using testing::run_program;

class PlansAndLists : public ::testing::Test {
 protected:
  PlansAndLists() {
    testing::write_tiny_model(folder_ / "model", {.vocabulary = 96});
    testing::write_tiny_rows(folder_ / "rows.jsonl", 24, 96);
    settings_ = {{"model_name_or_path", "model"},
                 {"dataset", "rows.jsonl"},
                 {"r", 2},
                 {"target_modules", {"W_pack"}},
                 {"logging_steps", 1},
                 {"max_steps", 4},
                 {"per_device_train_batch_size", 4},
                 {"gradient_accumulation_steps", 2},
                 {"save_steps", 0},
                 {"device", "cpu"}};
  }

  Outcome program(const std::string& arguments, const std::string& under = "") const {
    folder_.write("run.json", settings_.dump());
    return run_program(folder_, "lora-train " + arguments, under);
  }
  Outcome train(const std::string& arguments) const {
    const Outcome said = program("run.json " + arguments);
    EXPECT_EQ(said.code, 0) << said.err;
    return said;
  }
  std::set<std::string> names() const {
    std::set<std::string> found;
    for (const auto& entry : fs::recursive_directory_iterator(folder_.path()))
      found.insert(entry.path().lexically_relative(folder_.path()).string());
    return found;
  }
  static void expect_narrow(const std::string& text) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      const auto columns = std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xC0) != 0x80; });
      EXPECT_LE(columns, 100) << line;
    }
  }

  testing::TempFolder folder_;
  nlohmann::json settings_;
};

TEST_F(PlansAndLists, APlanPrintsAndWritesNothing) {
  train("--output_dir before --max_steps 1");  // so that the files of this test itself are there
  const auto before = names();
  for (const char* flags : {"--plan", "--plan --output_dir new", "--plan --finetuning_type full"}) {
    const Outcome said = train(flags);
    EXPECT_EQ(names(), before) << flags;
    EXPECT_EQ(said.err, "");
    for (const char* part : {"plan:\n", "24 rows to learn from", "duplicates", "lengths", "4 of 8 rows", "in all",
                             "full tuning", "retrieval and prompts", "W_pack alone", "learning_rate", "memory:"})
      EXPECT_TRUE(contains(said.out, part)) << flags;
    expect_narrow(said.out.substr(said.out.find("plan:\n")));
  }
}

TEST_F(PlansAndLists, APlanNeedsNoOutputFolder) {
  fs::rename(folder_ / "model", folder_ / "out");  // a name that nobody gave
  settings_["model_name_or_path"] = "out";
  train("--plan");
  EXPECT_EQ(program("run.json --plan --output_dir out").code, 2);
}

TEST_F(PlansAndLists, APlansObjectHasItsKeys) {
  train("--plan_output plan.json");
  const nlohmann::json plan = read_json(folder_ / "plan.json");
  for (const char* key : {"rows",          "rows_read",      "held_out_rows", "tokens",
                          "learnt_tokens", "shortest",       "longest",       "lengths",
                          "cut_rows",      "cut_tokens",     "dropped_rows",  "rows_without_labels",
                          "broken_rows",   "duplicate_rows", "steps",         "steps_per_epoch",
                          "rows_per_step", "evaluations",    "saves",         "finetuning_type",
                          "lora",          "full",           "seconds",       "memory_bytes",
                          "guide",         "evidence"})
    EXPECT_TRUE(plan.contains(key)) << key;
  EXPECT_EQ(plan.at("rows"), 24);
  EXPECT_EQ(plan.at("steps"), 4);
  for (const char* method : {"lora", "full"}) {
    EXPECT_EQ(plan.at(method).at("fits"), true);
    EXPECT_EQ(plan.at(method).at("time").at("measured"), true);
    EXPECT_GT(plan.at(method).at("memory_bytes"), 0);
  }
  EXPECT_EQ(plan.at("seconds"), plan.at("lora").at("time").at("total_seconds"));
  EXPECT_EQ(program("run.json --plan --plan_output nowhere/plan.json").code, 2);
}

// A bound that a machine with other work keeps.
TEST_F(PlansAndLists, APlansTimeIsNearTheRuns) {
  testing::write_tiny_model(folder_ / "wide", {.vocabulary = 2000, .hidden = 128, .inner = 384, .layers = 4});
  settings_["model_name_or_path"] = "wide";
  settings_["max_steps"] = 150;
  settings_["logging_steps"] = 50;
  double best = 100;
  for (int i = 0; i < 8 && best > 2; ++i) {  // what one of them was held up by is no fault of a plan's
    train("--plan_output plan.json");
    const double planned = read_json(folder_ / "plan.json").at("seconds");
    const auto start = std::chrono::steady_clock::now();
    train("--output_dir out");
    const double ratio = planned / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::cout << "plan / run: " << ratio << "\n";
    best = std::min(best, std::max(ratio, 1 / ratio));
  }
  EXPECT_LE(best, 2);
}

TEST_F(PlansAndLists, APlanThatDoesNotFitIsStillOne) {
  const Outcome said = train("--plan --memory_budget 1MB");
  EXPECT_TRUE(contains(said.out, "does not fit"));
  EXPECT_TRUE(contains(said.out, "no time: it does not fit in memory"));
}

TEST_F(PlansAndLists, ASignalEndsAPlan) {
  settings_["max_steps"] = 1000;
  folder_.write("run.json", settings_.dump());
  const Outcome said = testing::signal_program(folder_, "lora-train run.json --plan", SIGTERM,
                                               [this](pid_t) { return !read_bytes(folder_ / ".out").empty(); });
  EXPECT_EQ(said.code, 143) << said.out;
  EXPECT_EQ(said.err, "lora-train: stopped by SIGTERM\n");
}

TEST_F(PlansAndLists, ListsRunsAsATree) {
  train("--output_dir runs/base --finetuning_type full");
  settings_["model_name_or_path"] = "runs/base";
  train("--output_dir runs/first");
  train("--output_dir runs/deep/second --adapter_name_or_path runs/first --learning_rate 0.01");
  fs::create_directory(folder_ / "bought");
  for (const char* name : {"adapter_config.json", "adapter_model.safetensors"})
    fs::copy(folder_ / "runs/first" / name, folder_ / "bought");
  train("--output_dir runs/third --adapter_name_or_path bought");
  fs::create_directory_symlink("..", folder_ / "runs/deep/loop");
  folder_.write("runs/foreign/adapter_config.json", "{}");
  folder_.write("runs/broken/run.json", "{\"run_id\"");
  folder_.write("runs/nothing/notes.txt", "none");

  const Outcome said = program("--list runs");
  EXPECT_EQ(said.code, 0) << said.err;
  expect_narrow(said.out);
  std::istringstream lines(said.out);
  std::vector<std::string> line(1);
  while (std::getline(lines, line.back())) line.emplace_back();
  const auto starting = [&](const std::string& start) {
    return std::find_if(line.begin(), line.end(), [&](const std::string& x) { return x.starts_with(start); });
  };
  const auto base = starting("base "), first = starting("└─ first "), second = starting("   └─ deep/second ");
  ASSERT_NE(base, line.end()) << said.out;
  ASSERT_NE(first, line.end()) << said.out;
  ASSERT_NE(second, line.end()) << said.out;
  EXPECT_TRUE(base < first && first < second);
  EXPECT_TRUE(contains(*base, " full "));
  EXPECT_TRUE(contains(*first, " lora "));
  EXPECT_TRUE(contains(*first, " finished"));
  EXPECT_TRUE(contains(*starting("foreign"), "an adapter of another tool"));
  EXPECT_TRUE(contains(*starting("broken"), "run.json"));
  EXPECT_TRUE(contains(said.out, "third started from bought, which is not listed\n"));
  EXPECT_EQ(said.out.find("nothing"), std::string::npos);
  EXPECT_EQ(said.out.find("loop"), std::string::npos);
  EXPECT_TRUE(contains(said.out, "no run was evaluated on held-out rows; the least training loss: "));
  EXPECT_TRUE(contains(*starting("  learning_rate"), "0.01 (deep/second)"));
  EXPECT_EQ(said.out.find("  output_dir"), std::string::npos);
  EXPECT_EQ(said.out.find("  seed"), std::string::npos);
}

TEST_F(PlansAndLists, SaysHowFarARunCame) {
  settings_["save_steps"] = 2;
  train("--output_dir runs/done");
  fs::copy(folder_ / "runs/done", folder_ / "runs/stopped", fs::copy_options::recursive);
  fs::remove_all(folder_ / "runs/stopped/checkpoint-4");
  fs::remove(folder_ / "runs/stopped/manifest.json");
  fs::copy(folder_ / "runs/done/checkpoint-2", folder_ / "runs/lone");
  const auto run_named = [&](const std::string& name) {
    for (const ListedRun& run : find_runs(folder_ / "runs"))
      if (run.name == name) return run;
    ADD_FAILURE() << name;
    return ListedRun();
  };
  EXPECT_EQ(run_named("done").state, RunState::kFinished);
  EXPECT_EQ(run_named("done").step, 4);
  EXPECT_GT(run_named("done").bytes, 1000u);
  EXPECT_EQ(run_named("stopped").state, RunState::kStopped);
  EXPECT_EQ(run_named("stopped").step, 2);
  EXPECT_EQ(run_named("stopped").total_steps, 4);
  EXPECT_EQ(run_named("lone").state, RunState::kCheckpoint);
  EXPECT_EQ(run_named("lone").step, 2);
  const FolderLock lock(folder_ / "runs/stopped");
  EXPECT_EQ(run_named("stopped").state, RunState::kRunning);
}

TEST_F(PlansAndLists, TheBestIsTheOneWithTheLeastLossOnHeldOutRows) {
  for (const char* name : {"a", "b"}) {
    train(std::string("--output_dir runs/") + name);
    nlohmann::json state = read_json(folder_ / "runs" / name / "trainer_state.json");
    const double best = name[0] == 'a' ? 1.5 : 2.5;
    state["log_history"].push_back({{"step", 0}, {"epoch", 0.0}, {"eval_loss", 0.5}});  // before it, no best of it
    state["log_history"].push_back({{"step", 1}, {"epoch", 0.5}, {"eval_loss", nullptr}});
    state["log_history"].push_back({{"step", 2}, {"epoch", 1.0}, {"eval_loss", best}});
    state["log_history"].push_back({{"step", 4}, {"epoch", 2.0}, {"eval_loss", 3.5}});
    folder_.write(std::string("runs/") + name + "/trainer_state.json", state.dump());
    fs::remove(folder_ / "runs" / name / "train_log.jsonl");
  }
  const Outcome said = program("--list runs");
  EXPECT_TRUE(contains(said.out, "best: * a, eval_loss 1.5000 at step 2\n"));
  EXPECT_TRUE(contains(said.out, " 3.5000  1.5000 "));
  EXPECT_TRUE(contains(said.out, "\nno settings differ\n"));
}

TEST(ListsOfRuns, LongSettingsThatEndAlikeDiffer) {
  std::vector<ListedRun> runs(2);
  const std::string end = "/" + std::string(60, 'r') + ".json";
  for (size_t i = 0; i < 2; ++i) {
    runs[i].name = runs[i].run_id = i == 0 ? "a" : "b";
    runs[i].settings = {{"dataset", runs[i].name + end}};
  }
  std::ostringstream text;
  print_runs(text, "runs", runs);
  EXPECT_TRUE(contains(text.str(), "\nsettings that differ:\n  dataset "));
}

TEST_F(PlansAndLists, WhatIsNotThereIsSaid) {
  const Outcome missing = program("--list nowhere");
  EXPECT_EQ(missing.code, 2);
  EXPECT_EQ(missing.err, "lora-train: --list: expected a folder, got no such path: nowhere\n");
  fs::create_directory(folder_ / "empty");
  const Outcome empty = program("--list empty");
  EXPECT_EQ(empty.code, 0) << empty.err;
  EXPECT_EQ(empty.out, "no runs below empty (folders at most 16 deep)\n");
}

}  // namespace
}  // namespace rankfold
