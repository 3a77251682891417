// A program that makes one output, stopped or killed at any moment: the output is absent or whole, and what it is made of
// untouched.
#include "core/write.h"
#include "faults/flags.h"
#include "faults/program.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <iostream>
#include <utility>

namespace rankfold::faults {
namespace {

using Files = std::map<std::string, std::string>;

class OutputInstants : public ::testing::Test {
 protected:
  // `arguments` end with the flag that `output` belongs to. All other files of `folder` are inputs.
  void make_whole(const std::string& program, std::vector<std::string> arguments, const fs::path& output) {
    program_ = program;
    arguments_ = std::move(arguments);
    output_ = output;
    unfinished_ = output.string() + kUnfinished;
    inputs_ = contents(output.parent_path());
    const Outcome whole = Program(program_, all_arguments(), kWholeLife).wait();
    EXPECT_EQ(whole.code, 0) << whole.err;
    life_ = whole.seconds;
    wanted_ = contents(output_);
    EXPECT_NE(wanted_, Files());
    clear();
  }

  void signals(uint64_t salt) {
    Random random(salt);
    int64_t absent = 0, made = 0;
    const int64_t count = flags.signals / 4;
    for (int64_t i = 0; i < count; ++i) {
      const int number = i % 2 ? SIGINT : SIGTERM;
      const double part = (static_cast<double>(i) + random.unit()) / static_cast<double>(count);
      const Instant instant = {0.8 * life_ * part, Instant::After::kMain};
      SCOPED_TRACE(instant.text() + " of " + std::to_string(life_));
      Program run(program_, all_arguments(), kWholeLife);
      await(run, instant);
      run.signal(number);
      const Outcome o = run.wait();
      const bool there = fs::exists(output_);
      EXPECT_TRUE(!there || is_whole()) << "half";
      EXPECT_FALSE(fs::exists(unfinished_));
      const bool is_stopped = o.code == (number == SIGINT ? 130 : 143);
      EXPECT_TRUE(there ? o.code == 0 || (has_more_to_do_ && is_stopped) : is_stopped) << o.code << o.signal << o.err;
      absent += !there, made += there;
      clear();
    }
    EXPECT_TRUE(contents(output_.parent_path()) == inputs_);
    EXPECT_GT(absent, 0);
    std::cout << "signals: " << program_ << " at " << count << " instants of " << life_ << " s: " << made << " whole, "
              << absent << " absent, 0 temporaries\n";
  }

  void kills(uint64_t salt) {
    Random random(salt);
    int64_t absent = 0, made = 0, killed = 0, half = 0, temporaries = 0;
    const int64_t count = flags.instants / 2;
    for (int64_t i = 0; i < count; ++i) {
      Program run(program_, all_arguments(), kWholeLife);
      // Half of them anywhere, half while it writes.
      while (i % 2 && run.runs() && !fs::exists(unfinished_)) sleep_for(0.001);
      const double instant = (i % 2 ? 0.2 : 1) * life_ * random.unit();
      sleep_for(instant);
      run.signal(SIGKILL);
      const Outcome o = run.wait();
      SCOPED_TRACE((i % 2 ? "in writing, after " : "after ") + std::to_string(instant) + " s: " + o.err);
      EXPECT_TRUE(o.signal == SIGKILL || o.code == 0);
      if (o.signal == 0) life_ = std::min(life_, o.seconds);  // a machine that gets less busy shortens the life
      const bool there = fs::exists(output_);
      EXPECT_TRUE(!there || is_whole()) << "half";
      killed += o.signal == SIGKILL, absent += !there, made += there, half += fs::exists(unfinished_);
      // What it left is in nobody's way.
      const Outcome again = Program(program_, all_arguments()).wait();
      EXPECT_EQ(again.code, there ? 2 : 0) << again.err;
      EXPECT_TRUE(is_whole());
      const auto left = temporaries_below(output_.parent_path());
      EXPECT_TRUE(left.empty()) << left.front();
      temporaries += static_cast<int64_t>(left.size());
      clear();
      EXPECT_TRUE(contents(output_.parent_path()) == inputs_);
    }
    std::cout << "kill -9: " << program_ << " at " << count << " instants of " << life_ << " s, " << killed
              << " met a running process: " << made << " whole, " << absent << " absent, " << half
              << " of them with something unfinished; " << temporaries << " temporaries after a second run\n";
    EXPECT_GE(killed, count / 2);
    EXPECT_GT(half, 0);
  }

  bool has_more_to_do_ = false;  // once the output is there, so that a signal still counts

 private:
  std::vector<std::string> all_arguments() const {
    std::vector<std::string> all = arguments_;
    all.back() += output_.string();
    return all;
  }
  static Files contents(const fs::path& path) {
    return fs::is_directory(path) ? files_below(path) : Files{{"", read_bytes(path)}};
  }
  bool is_whole() const { return contents(output_) == wanted_; }
  void clear() const {
    fs::remove_all(output_);
    fs::remove_all(unfinished_);
  }

  std::string program_;
  std::vector<std::string> arguments_;
  fs::path output_, unfinished_;
  double life_ = 0;
  Files wanted_, inputs_;
};

class MergeInstants : public OutputInstants {
 protected:
  MergeInstants() {
    testing::write_tiny_model(job_ / "large", {.vocabulary = 2048, .hidden = 512, .inner = 1536});
    EXPECT_EQ(job_.train("adapter", {"--model_name_or_path=" + (job_ / "large").string(), "--max_steps=1"}).code, 0);
    make_whole("lora-merge",
               {"--model_name_or_path=" + (job_ / "large").string(),
                "--adapter_name_or_path=" + (job_ / "adapter").string(), "--output_dir="},
               job_ / "merged");
  }
  const Job job_;
};

TEST_F(MergeInstants, OfSignals) { signals(4); }
TEST_F(MergeInstants, OfKills) { kills(6); }

class CleanInstants : public OutputInstants {
 protected:
  static constexpr int kRows = 8000;  // a second

  CleanInstants() {
    std::string rows;
    for (int i = 0; i < kRows; ++i) {
      std::string answer;
      for (int k = 0; k < 20; ++k) answer += std::to_string((i + 1) * (k + 7)) + " mg, ";
      rows += nlohmann::json{{"question", "What is the dose of drug " + std::to_string(i) + "?"},
                             {"answer", answer + "call 139" + std::to_string(10000000 + i)}}
                  .dump() +
              "\n";
    }
    folder_.write("rows.jsonl", rows);
    has_more_to_do_ = true;  // it prints its report
    make_whole("lora-data", {"clean", (folder_ / "rows.jsonl").string(), "--mask=mobile", "--output="},
               folder_ / "out.jsonl");
  }
  const TempFolder folder_;
};

TEST_F(CleanInstants, OfSignals) { signals(14); }
TEST_F(CleanInstants, OfKills) { kills(16); }

}  // namespace
}  // namespace rankfold::faults
