// A merge that is stopped or killed at any moment: the output is absent or whole, and what it reads from untouched.
#include "core/write.h"
#include "faults/flags.h"
#include "faults/program.h"

#include <gtest/gtest.h>

#include <iostream>

namespace rankfold::faults {
namespace {

class MergeInstants : public ::testing::Test {
 protected:
  MergeInstants() {
    testing::write_tiny_model(job_ / "large", {.vocabulary = 2048, .hidden = 512, .inner = 1536});
    EXPECT_EQ(job_.train("adapter", {"--model_name_or_path=" + (job_ / "large").string(), "--max_steps=1"}).code, 0);
    const Outcome whole = Program("lora-merge", arguments("whole"), kWholeLife).wait();
    EXPECT_EQ(whole.code, 0) << whole.err;
    life_ = whole.seconds;
    wanted_ = files_below(job_ / "whole");
    inputs_ = inputs();
  }
  std::vector<std::string> arguments(const std::string& out) const {
    return {"--model_name_or_path=" + (job_ / "large").string(),
            "--adapter_name_or_path=" + (job_ / "adapter").string(), "--output_dir=" + (job_ / out).string()};
  }
  std::map<std::string, std::string> inputs() const {
    std::map<std::string, std::string> all;
    for (const std::string folder : {"large", "adapter"})
      for (auto& [name, bytes] : files_below(job_ / folder)) all[folder + "/" + name] = std::move(bytes);
    return all;
  }
  bool is_whole() const { return files_below(job_ / "merged") == wanted_; }
  void clear() const {
    fs::remove_all(job_ / "merged");
    fs::remove_all(unfinished_);
  }

  const Job job_;
  const fs::path unfinished_ = job_ / (std::string("merged") + kUnfinished);
  double life_ = 0;
  std::map<std::string, std::string> wanted_, inputs_;
};

TEST_F(MergeInstants, OfSignals) {
  Random random(4);
  int64_t absent = 0, merged = 0, temporaries = 0;
  constexpr int64_t kCount = 16;
  for (int64_t i = 0; i < kCount; ++i) {
    const int number = i % 2 ? SIGINT : SIGTERM;
    const Instant instant = {0.8 * life_ * (static_cast<double>(i) + random.unit()) / kCount, Instant::After::kMain};
    SCOPED_TRACE(instant.text() + " of " + std::to_string(life_));
    Program run("lora-merge", arguments("merged"), kWholeLife);
    await(run, instant);
    run.signal(number);
    const Outcome o = run.wait();
    const bool there = fs::exists(job_ / "merged"), left = fs::exists(unfinished_);
    EXPECT_TRUE(!there || is_whole()) << "half";
    EXPECT_FALSE(left);
    EXPECT_EQ(o.code, there ? 0 : number == SIGINT ? 130 : 143) << o.signal << o.err;
    absent += !there, merged += there, temporaries += left;
    clear();
  }
  EXPECT_TRUE(inputs() == inputs_);
  EXPECT_GT(absent, 0);
  std::cout << "signals: lora-merge at " << kCount << " instants of " << life_ << " s: " << merged << " whole, "
            << absent << " absent, " << temporaries << " temporaries\n";
}

TEST_F(MergeInstants, OfKills) {
  Random random(6);
  int64_t absent = 0, merged = 0, killed = 0, half = 0, temporaries = 0;
  constexpr int64_t kCount = 10;
  for (int64_t i = 0; i < kCount; ++i) {
    Program run("lora-merge", arguments("merged"), kWholeLife);
    // Half of them anywhere, half while it writes.
    while (i % 2 && run.runs() && !fs::exists(unfinished_)) sleep_for(0.001);
    const double instant = (i % 2 ? 0.2 : 1) * life_ * random.unit();
    sleep_for(instant);
    run.signal(SIGKILL);
    const Outcome o = run.wait();
    SCOPED_TRACE((i % 2 ? "in writing, after " : "after ") + std::to_string(instant) + " s: " + o.err);
    EXPECT_TRUE(o.signal == SIGKILL || o.code == 0);
    const bool there = fs::exists(job_ / "merged");
    EXPECT_TRUE(!there || is_whole()) << "half";
    EXPECT_TRUE(inputs() == inputs_);
    killed += o.signal == SIGKILL, absent += !there, merged += there, half += fs::exists(unfinished_);
    // What it left is in nobody's way.
    const Outcome again = Program("lora-merge", arguments("merged")).wait();
    EXPECT_EQ(again.code, there ? 2 : 0) << again.err;
    EXPECT_TRUE(is_whole());
    EXPECT_TRUE(inputs() == inputs_);
    const auto left = temporaries_below(job_.path());
    EXPECT_TRUE(left.empty()) << left.front();
    temporaries += static_cast<int64_t>(left.size());
    clear();
  }
  std::cout << "kill -9: lora-merge at " << kCount << " instants of " << life_ << " s, " << killed
            << " met a running process: " << merged << " whole, " << absent << " absent, " << half
            << " of them with a temporary folder; " << temporaries << " temporaries after a second run\n";
  EXPECT_GE(killed, kCount / 2);
  EXPECT_GT(half, 0);
}

}  // namespace
}  // namespace rankfold::faults
