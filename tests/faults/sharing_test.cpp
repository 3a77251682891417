// One output folder and several runs: at once, after each other, after crashes.
#include "checkpoint/checkpoint.h"
#include "faults/program.h"
#include "support/contains.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <iostream>

namespace rankfold::faults {
namespace {

using testing::contains;

TEST(Sharing, TheSecondRunAtOnceIsRefused) {
  const Job job;
  ASSERT_EQ(job.train("whole").code, 0);
  Program first("lora-train", job.arguments("out"));
  ASSERT_TRUE(first.says("\nstep 3/"));
  first.signal(SIGSTOP);  // or it would be over before the others are
  const auto before = files_below(job / "out");
  int64_t refused = 0;
  for (const std::vector<std::string>& more : {std::vector<std::string>{},
                                               {"--resume_from_checkpoint=auto"},
                                               {"--dataset=" + (job / "model/config.json").string()}}) {
    const Outcome second = job.train("out", more);
    EXPECT_EQ(second.code, 2) << second.out;
    EXPECT_TRUE(contains(second.err, std::to_string(first.pid())));
    EXPECT_EQ(std::count(second.err.begin(), second.err.end(), '\n'), 1) << second.err;
    refused += second.code == 2;
  }
  EXPECT_EQ(files_below(job / "out"), before);
  first.signal(SIGCONT);
  const Outcome o = first.wait();
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_EQ(job.result("out"), job.result("whole"));
  std::cout << "sharing: " << refused << "/3 second runs refused with the first one's pid, which ended undisturbed\n";
}

TEST(Sharing, TwoStartedTogether) {
  const Job job;
  ASSERT_EQ(job.train("whole").code, 0);
  int64_t one_won = 0;
  for (int i = 0; i < 3; ++i) {
    const std::string out = "out-" + std::to_string(i);
    Program a("lora-train", job.arguments(out)), b("lora-train", job.arguments(out));
    const Outcome of_a = a.wait(), of_b = b.wait();
    EXPECT_EQ(std::min(of_a.code, of_b.code), 0) << of_a.err << of_b.err;
    EXPECT_EQ(std::max(of_a.code, of_b.code), 2) << of_a.err << of_b.err;
    EXPECT_EQ(job.result(out), job.result("whole"));
    one_won += of_a.code + of_b.code == 2;
  }
  std::cout << "sharing: two started together: one ran, one was refused, " << one_won << "/3\n";
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
  ASSERT_EQ(job.train("whole", {"--max_steps=8"}).code, 0);
  ASSERT_EQ(job.train("out", {"--max_steps=4"}).code, 0);
  // What dies in the middle leaves: a whole checkpoint under a temporary name, half of one, half of a result.
  fs::copy(job / "out/checkpoint-4", job / "out/checkpoint-900.tmp", fs::copy_options::recursive);
  fs::create_directories(job / "out/checkpoint-6.tmp");
  std::ofstream(job / "out/checkpoint-6.tmp/adapter_model.safetensors") << "half";
  std::ofstream(job / "out/checkpoint-6.tmp/optimizer.safetensors.tmp") << "half";
  fs::create_directories(job / "out/saving.tmp");
  std::ofstream(job / "out/saving.tmp/adapter_model.safetensors") << "half";
  EXPECT_EQ(newest_step(job / "out"), 4);
  const Outcome resumed = job.train("out", {"--max_steps=8", "--resume_from_checkpoint=auto"});
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_TRUE(contains(resumed.out, "checkpoint-4 at step 4"));
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

}  // namespace
}  // namespace rankfold::faults
