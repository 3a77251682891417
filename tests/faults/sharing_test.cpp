// One output folder and several runs: at once, after each other, after crashes.
#include "checkpoint/checkpoint.h"
#include "core/write.h"
#include "faults/program.h"
#include "support/contains.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <map>
#include <utility>

namespace rankfold::faults {
namespace {

using testing::contains;

TEST(Sharing, TheSecondRunAtOnceIsRefused) {
  const Job job;
  ASSERT_EQ(job.train("whole").code, 0);
  Program first("lora-train", job.arguments("out"));
  ASSERT_TRUE(first.says("\nstep 3/") && first.hold());  // or it would be over before the others are
  const auto before = files_below(job / "out");
  int64_t seconds = 0, refused = 0;
  for (const std::vector<std::string>& more : {std::vector<std::string>{},
                                               {"--resume_from_checkpoint=auto"},
                                               {"--dataset=" + (job / "model/config.json").string()}}) {
    const Outcome second = job.train("out", more);
    EXPECT_EQ(second.code, 2) << second.out;
    EXPECT_TRUE(contains(second.err, std::to_string(first.pid())));
    EXPECT_EQ(std::count(second.err.begin(), second.err.end(), '\n'), 1) << second.err;
    ++seconds, refused += second.code == 2;
  }
  EXPECT_EQ(files_below(job / "out"), before);
  first.go_on();
  const Outcome o = first.wait();
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_TRUE(job.result("out") == job.result("whole"));
  std::cout << "sharing: " << refused << "/" << seconds
            << " second runs refused with the first one's pid, which ended undisturbed\n";
}

TEST(Sharing, TwoStartedTogether) {
  const Job job;
  ASSERT_EQ(job.train("whole").code, 0);
  constexpr int64_t kTimes = 3;
  int64_t one_won = 0;
  for (int64_t i = 0; i < kTimes; ++i) {
    const std::string out = "out-" + std::to_string(i);
    Program a("lora-train", job.arguments(out)), b("lora-train", job.arguments(out));
    const Outcome of_a = a.wait(), of_b = b.wait();
    EXPECT_EQ(std::min(of_a.code, of_b.code), 0) << of_a.err << of_b.err;
    EXPECT_EQ(std::max(of_a.code, of_b.code), 2) << of_a.err << of_b.err;
    EXPECT_TRUE(job.result(out) == job.result("whole"));
    one_won += of_a.code + of_b.code == 2;
  }
  std::cout << "sharing: two started together: one ran, one was refused, " << one_won << "/" << kTimes << "\n";
}

TEST(Sharing, TheLockOfADeadProcessDoesNotMatter) {
  const Job job;
  const pid_t dead = ::fork();
  if (dead == 0) ::_exit(0);
  ::waitpid(dead, nullptr, 0);
  for (const std::string& text :
       {std::to_string(dead), std::to_string(::getpid()), std::string(), std::string("?\n")}) {
    fs::create_directories(job / "out");
    std::ofstream(job / "out/run.lock") << text;
    EXPECT_EQ(job.train("out", {"--max_steps=2"}).code, 0) << "run.lock of '" << text << "'";
    fs::remove_all(job / "out");
  }
}

TEST(Sharing, TemporariesOfCrashesAreNoCheckpointsAndGo) {
  const Job job;
  const auto up_to = [](const char* steps) {
    return std::vector<std::string>{"--lr_scheduler_type=constant", std::string("--max_steps=") + steps};
  };
  ASSERT_EQ(job.train("whole", up_to("8")).code, 0);
  ASSERT_EQ(job.train("out", up_to("4")).code, 0);
  // What dies in the middle leaves: a whole checkpoint under a temporary name, half of one, half of a result.
  const std::string end = kUnfinished;
  fs::copy(job / "out/checkpoint-4", job / ("out/checkpoint-900" + end), fs::copy_options::recursive);
  fs::create_directories(job / ("out/checkpoint-6" + end));
  std::ofstream(job / ("out/checkpoint-6" + end) / "adapter_model.safetensors") << "half";
  std::ofstream(job / ("out/checkpoint-6" + end) / ("optimizer.safetensors" + end)) << "half";
  std::ofstream(job / ("out/run.json" + end)) << "half";
  fs::create_directories(job / "out" / kStaging);
  std::ofstream(job / "out" / kStaging / "adapter_model.safetensors") << "half";
  EXPECT_EQ(newest_step(job / "out"), 4);
  EXPECT_EQ(job.resume("out", up_to("8")).from, 4);
  EXPECT_TRUE(job.result("out") == job.result("whole"));
  EXPECT_EQ(temporaries_below(job / "out"), std::vector<std::string>());
}

// The steps that a folder holds, newest first, as numbers and not as texts.
std::vector<int64_t> steps_in(const fs::path& out) {
  std::vector<int64_t> steps;
  for (const Checkpoint& checkpoint : list_checkpoints(out)) steps.push_back(checkpoint.step);
  return steps;
}

class Retention : public ::testing::Test, protected World {
 protected:
  // A whole checkpoint of run `id`.
  void put(const std::string& id, int64_t step) const {
    save_checkpoint(out_, id, step, [](const fs::path& folder) { std::ofstream(folder / "file") << "bytes"; });
  }
  TempFolder folder_;
  const fs::path out_ = folder_ / "out";
};

TEST_F(Retention, NumbersNotTexts) {
  for (const int64_t limit : {1, 2, 3}) {
    fs::remove_all(out_);
    fs::create_directories(out_);
    const std::string id = start_run(out_);
    for (int64_t step = 9900; step <= 10000; step += 20) {
      put(id, step);
      remove_old_checkpoints(out_, id, limit);
      EXPECT_EQ(newest_checkpoint(out_, {})->step, step);
      const auto left = steps_in(out_);
      EXPECT_EQ(static_cast<int64_t>(left.size()), std::min(limit, (step - 9900) / 20 + 1));
      EXPECT_EQ(left.front(), step);
    }
    EXPECT_EQ(temporaries_below(out_), std::vector<std::string>());
  }
}

TEST_F(Retention, AnotherRunsCheckpointsStay) {
  fs::create_directories(out_);
  const std::string first = start_run(out_);
  put(first, 10), put(first, 5000), put(first, 99999);
  for (const int64_t limit : {1, 2}) {
    const std::string second = start_run(out_);
    for (int64_t step = 1; step <= 6; ++step) put(second, step), remove_old_checkpoints(out_, second, limit);
    EXPECT_EQ(newest_checkpoint(out_, {})->step, 6);
    for (const int64_t step : {10, 5000, 99999})
      EXPECT_EQ(damage(out_ / ("checkpoint-" + std::to_string(step))), "") << step;
    EXPECT_EQ(steps_in(out_).size(), 3 + static_cast<size_t>(limit));
    remove_old_checkpoints(out_, second, 1), fs::remove_all(out_ / "checkpoint-6");
  }
}

// A person may want to look at it; of those that can be resumed there are as many as asked for.
TEST_F(Retention, ADamagedOneDoesNotCount) {
  const std::pair<const char*, std::function<void(const fs::path&)>> damages[] = {
      {"a shorter file", [](const fs::path& folder) { fs::resize_file(folder / "file", 1); }},
      {"a file that is gone", [](const fs::path& folder) { fs::remove(folder / "file"); }},
      {"no manifest", [](const fs::path& folder) { fs::remove(folder / "manifest.json"); }},
      {"an empty manifest", [](const fs::path& folder) { fs::resize_file(folder / "manifest.json", 0); }}};
  int64_t kept = 0;
  for (const auto& [what, damage_it] : damages) {
    SCOPED_TRACE(what);
    fs::remove_all(out_);
    fs::create_directories(out_);
    const std::string id = start_run(out_);
    for (int64_t step = 1; step <= 5; ++step) {
      put(id, step);
      if (step == 3 || step == 4) damage_it(out_ / ("checkpoint-" + std::to_string(step)));
      remove_old_checkpoints(out_, id, 2);
    }
    std::vector<int64_t> whole, damaged;
    for (const Checkpoint& checkpoint : list_checkpoints(out_))
      (damage(checkpoint.path).empty() ? whole : damaged).push_back(checkpoint.step);
    EXPECT_EQ(whole, (std::vector<int64_t>{5, 2}));
    std::sort(damaged.begin(), damaged.end());
    EXPECT_EQ(damaged, (std::vector<int64_t>{3, 4}));
    kept += whole.size() == 2;
  }
  std::cout << "sharing: checkpoints damaged in " << std::size(damages) << " ways: the limit was kept without them in "
            << kept << "\n";
}

// Names like ours make nothing ours to delete; what stands in the place of a checkpoint gets another name.
TEST_F(Retention, WhatIsOfNobodyKnownStays) {
  const std::map<std::string, std::string> foreign = {{"x.tmp/notes", "mine"},
                                                      {"notes.tmp", "mine"},
                                                      {"checkpoint-6.tmp/file", "mine"},
                                                      {"checkpoint-x/file", "mine"},
                                                      {"checkpoint-3.bak/file", "mine"},
                                                      {"checkpoint-90/trainer_state.json", "{\"epoch\": 1}"},
                                                      {"checkpoint-91/manifest.json", "{\"name\": \"app\"}"},
                                                      {"model.old.tmp/file", "mine"}};
  std::map<std::string, std::string> wanted = foreign;
  for (const std::string name : {"checkpoint-4", "checkpoint-12"}) {
    folder_.write("out/" + name + "/trainer_state.json", name);
    wanted[name + "-of-unknown/trainer_state.json"] = name;
  }
  for (const auto& [name, bytes] : foreign) folder_.write("out/" + name, bytes);
  TrainConfig config = settings(out_, 12);
  config.save_total_limit = 1;
  train(config);
  EXPECT_EQ(newest_checkpoint(out_, {})->step, 12);
  size_t there = 0;
  for (const auto& [name, bytes] : wanted) {
    const bool same = fs::exists(out_ / name) && read_bytes(out_ / name) == bytes;
    EXPECT_TRUE(same) << name;
    there += same;
  }
  EXPECT_EQ(there, wanted.size());
  std::cout << "sharing: " << there << "/" << wanted.size() << " foreign files and folders are still there\n";
}

}  // namespace
}  // namespace rankfold::faults
