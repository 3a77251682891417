// Memory that runs out under a real limit in the middle of a program's life: one line that says what for, exit 4, and no
// finished step lost.
#include "checkpoint/checkpoint.h"
#include "core/check.h"
#include "faults/program.h"
#include "support/contains.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <fstream>
#include <iostream>

namespace rankfold::faults {
namespace {

using testing::contains;

class MemoryLimit : public ::testing::Test {
 protected:
  // No more than `spare` bytes beyond what it has now, of what /proc calls `key`.
  static void limit(Program& run, __rlimit_resource resource, const std::string& key, int64_t spare) {
    ASSERT_TRUE(run.hold());
    const rlimit most = {static_cast<rlim_t>(run.memory(key) + spare), RLIM_INFINITY};
    ASSERT_EQ(::prlimit(run.pid(), resource, &most, nullptr), 0);
    run.go_on();
  }
  // So few addresses that the program does without a range of its own for tensors (core/process.cpp), in which a limit
  // that comes later would not be felt.
  static Setting few_addresses() {
    return {.in_child = [] {
      const rlimit most = {static_cast<rlim_t>(1900 * kMiB), RLIM_INFINITY};
      ::setrlimit(RLIMIT_AS, &most);
    }};
  }
  static void expect_one_line(const Outcome& o) {
    EXPECT_EQ(o.code, 4) << "signal " << o.signal << ": " << o.err << o.out;
    EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << o.err;
    EXPECT_TRUE(contains(o.err, "lora-train: out of memory"));
  }
  const Job job_;
};

// Steps of short rows, then one that takes hundreds of megabytes.
TEST_F(MemoryLimit, AStepThatDoesNotFit) {
  constexpr int64_t kRows = 128, kShort = 100, kLength = 512;
  std::ofstream rows(job_ / "rows.jsonl");
  for (const int64_t length : {int64_t{3}, kLength})
    for (int64_t i = 0; i < kRows * (length == 3 ? kShort : 1); ++i)
      rows << nlohmann::json{{"input_ids", std::vector<int64_t>(static_cast<size_t>(length), 7 + i % 400)}} << "\n";
  rows.close();
  const std::vector<std::string> settings = {"--dataset=" + (job_ / "rows.jsonl").string(),
                                             join("--per_device_train_batch_size=", kRows),
                                             "--gradient_accumulation_steps=1",
                                             "--gradient_checkpointing=none",
                                             join("--max_length=", kLength),
                                             "--shuffle=false",
                                             "--save_steps=0",
                                             join("--max_steps=", kShort + 1)};
  ASSERT_EQ(job_.train("whole", settings).code, 0);
  int64_t runs = 0, good = 0;
  for (const bool of_addresses : {true, false}) {
    const std::string out = of_addresses ? "addresses" : "data";
    SCOPED_TRACE(out);
    Program run("lora-train", job_.arguments(out, settings), of_addresses ? few_addresses() : Setting());
    ASSERT_TRUE(run.says("\nstep 3/"));
    limit(run, of_addresses ? RLIMIT_AS : RLIMIT_DATA, of_addresses ? "VmSize" : "VmData", 32 * kMiB);
    const Outcome o = run.wait();
    expect_one_line(o);
    for (const std::string& part :
         {join("step ", kShort + 1), join(kRows, " rows"), join(kRows * kLength, " tokens"), std::string(" bytes")})
      EXPECT_TRUE(contains(o.err, part));
    EXPECT_EQ(last_step(o.out), kShort);
    EXPECT_EQ(newest_step(job_ / out), kShort);
    EXPECT_EQ(temporaries_below(job_ / out), std::vector<std::string>());
    const Resumed resumed = job_.resume(out, settings);
    EXPECT_EQ(resumed.from, kShort);
    EXPECT_TRUE(job_.result(out) == job_.result("whole"));
    ++runs, good += o.code == 4 && resumed.is_good && resumed.from == kShort;
  }
  std::cout << "out of memory: a step that does not fit under a limit of the system: " << good << "/" << runs
            << " ended with exit 4 and every step before it saved\n";
}

// Rows of usual length, then some so long that what they take is not there any more.
TEST_F(MemoryLimit, RowsThatDoNotFit) {
  constexpr int64_t kRows = 20000, kLong = 8;
  std::ofstream rows(job_ / "text.jsonl");
  for (int64_t i = 0; i < kRows + kLong; ++i) {
    std::string answer = "Ask your doctor " + std::to_string(i);
    if (i >= kRows)
      while (answer.size() < kMiB) answer += " and drink water, " + std::to_string(answer.size());
    rows << nlohmann::json{{"question", "What is it?"}, {"answer", answer}} << "\n";
  }
  rows.close();
  const std::vector<std::string> settings = {"--dataset=" + (job_ / "text.jsonl").string(), "--max_length=64",
                                             "--max_steps=2"};
  const auto is_tokenising = [&] {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(job_ / "out/cache", error))
      if (entry.path().extension() == ".tmp") return true;
    return false;
  };
  Program run("lora-train", job_.arguments("out", settings));
  while (run.runs() && !is_tokenising()) sleep_for(0.001);
  limit(run, RLIMIT_AS, "VmSize", 4 * kMiB);
  const Outcome o = run.wait();
  expect_one_line(o);
  EXPECT_EQ(steps_said(o.out), std::vector<int64_t>());
  EXPECT_EQ(temporaries_below(job_ / "out"), std::vector<std::string>());
  // With memory the same job is done.
  EXPECT_EQ(job_.train("out", settings).code, 0);
  std::cout << "out of memory: while tokenising: exit " << o.code << "; without the limit the rows were there\n";
}

}  // namespace
}  // namespace rankfold::faults
