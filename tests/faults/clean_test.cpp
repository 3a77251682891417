// A cleaning that is stopped or killed at any moment: the output is absent or whole, and the input untouched.
#include "core/write.h"
#include "faults/flags.h"
#include "faults/program.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <iostream>

namespace rankfold::faults {
namespace {

class CleanInstants : public ::testing::Test {
 protected:
  CleanInstants() {
    std::string rows;
    for (int64_t i = 0; i < flags.rows; ++i) {
      std::string answer;
      for (int k = 0; k < 20; ++k) answer += std::to_string((i + 1) * (k + 7)) + " mg, ";
      rows += nlohmann::json{{"question", "What is the dose of drug " + std::to_string(i) + "?"},
                             {"answer", answer + "call 139" + std::to_string(10000000 + i)}}
                  .dump() +
              "\n";
    }
    folder_.write("rows.jsonl", rows);
    const Outcome whole = Program("lora-data", arguments("whole.jsonl"), kWholeLife).wait();
    EXPECT_EQ(whole.code, 0) << whole.err;
    life_ = whole.seconds;
    wanted_ = read_bytes(folder_ / "whole.jsonl");
    input_ = rows;
    EXPECT_NE(wanted_.find("[MOBILE]"), std::string::npos);
  }
  std::vector<std::string> arguments(const std::string& out) const {
    return {"clean", (folder_ / "rows.jsonl").string(), "--mask=mobile", "--output=" + (folder_ / out).string()};
  }
  bool is_whole() const { return read_bytes(folder_ / "out.jsonl") == wanted_; }
  void clear() const {
    fs::remove(folder_ / "out.jsonl");
    fs::remove(unfinished_);
  }

  const TempFolder folder_;
  const fs::path unfinished_ = folder_ / (std::string("out.jsonl") + kUnfinished);
  double life_ = 0;
  std::string wanted_, input_;
};

TEST_F(CleanInstants, OfSignals) {
  Random random(14);
  int64_t absent = 0, whole = 0;
  constexpr int64_t kCount = 10;
  for (int64_t i = 0; i < kCount; ++i) {
    const int number = i % 2 ? SIGINT : SIGTERM;
    const Instant instant = {0.8 * life_ * (static_cast<double>(i) + random.unit()) / kCount, Instant::After::kMain};
    SCOPED_TRACE(instant.text() + " of " + std::to_string(life_));
    Program run("lora-data", arguments("out.jsonl"), kWholeLife);
    await(run, instant);
    run.signal(number);
    const Outcome o = run.wait();
    const bool there = fs::exists(folder_ / "out.jsonl");
    EXPECT_TRUE(!there || is_whole()) << "half";
    EXPECT_FALSE(fs::exists(unfinished_));
    EXPECT_TRUE(o.code == 0 || o.code == (number == SIGINT ? 130 : 143)) << o.code << " " << o.signal << o.err;
    absent += !there, whole += there;
    clear();
  }
  EXPECT_TRUE(read_bytes(folder_ / "rows.jsonl") == input_);
  EXPECT_GT(absent, 0);
  std::cout << "signals: lora-data at " << kCount << " instants of " << life_ << " s: " << whole << " whole, " << absent
            << " absent\n";
}

TEST_F(CleanInstants, OfKills) {
  Random random(16);
  int64_t absent = 0, whole = 0, half = 0;
  constexpr int64_t kCount = 8;
  for (int64_t i = 0; i < kCount; ++i) {
    Program run("lora-data", arguments("out.jsonl"), kWholeLife);
    // Half of them anywhere, half while it writes.
    while (i % 2 && run.runs() && !fs::exists(unfinished_)) sleep_for(0.001);
    sleep_for((i % 2 ? 0.2 : 1) * life_ * random.unit());
    run.signal(SIGKILL);
    const Outcome o = run.wait();
    EXPECT_TRUE(o.signal == SIGKILL || o.code == 0) << o.err;
    const bool there = fs::exists(folder_ / "out.jsonl");
    EXPECT_TRUE(!there || is_whole()) << "half";
    EXPECT_TRUE(read_bytes(folder_ / "rows.jsonl") == input_);
    absent += !there, whole += there, half += fs::exists(unfinished_);
    // What it left is in nobody's way.
    const Outcome again = Program("lora-data", arguments("out.jsonl")).wait();
    EXPECT_EQ(again.code, there ? 2 : 0) << again.err;
    EXPECT_TRUE(is_whole());
    EXPECT_FALSE(fs::exists(unfinished_));
    clear();
  }
  EXPECT_GT(half, 0);
  std::cout << "kill -9: lora-data at " << kCount << " instants of " << life_ << " s: " << whole << " whole, " << absent
            << " absent, " << half << " of them with a temporary file\n";
}

}  // namespace
}  // namespace rankfold::faults
