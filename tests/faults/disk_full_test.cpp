// Real runs whose disk is full for a while or for good.
#include "checkpoint/checkpoint.h"
#include "core/check.h"
#include "core/json.h"
#include "faults/program.h"
#include "support/contains.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cerrno>
#include <iostream>

namespace rankfold::faults {
namespace {

using testing::contains;

class DiskFull : public ::testing::Test {
 protected:
  DiskFull() {
    static const WholeRun run(kFewSteps);
    wanted_ = run.put_into(job_);
  }
  // Calls `first` to `first` + `count` - 1 on paths that hold `only` fail.
  Setting fault(const std::string& out, const std::string& only, int64_t first, int64_t count, int error) const {
    return {.environment = {"LD_PRELOAD=" FAULTS_SHIM, "FAULTS_SPARES=1", "FAULTS_ROOT=" + (job_ / out).string(),
                            "FAULTS_ONLY=" + only, join("FAULTS_FIRST=", first), join("FAULTS_COUNT=", count),
                            join("FAULTS_ERROR=", error)}};
  }
  static std::vector<std::string> with(std::vector<std::string> more) {
    more.insert(more.begin(), kFewSteps.begin(), kFewSteps.end());
    return more;
  }
  void expect_clean(const std::string& out) const {
    EXPECT_EQ(temporaries_below(job_ / out), std::vector<std::string>()) << out;
    for (const Checkpoint& checkpoint : list_checkpoints(job_ / out)) EXPECT_EQ(damage(checkpoint.path), "");
  }
  void expect_resumes(const std::string& out) {
    const Resumed resumed = job_.resume(out, kFewSteps);
    const bool same = job_.result(out) == wanted_;
    EXPECT_TRUE(same);
    (resumed.from > 0 ? from_checkpoints_ : from_scratch_) += resumed.is_good && same;
  }

  static inline const std::vector<std::string> kFewSteps = {"--max_steps=20"};
  const Job job_;
  std::string wanted_;
  int64_t from_checkpoints_ = 0, from_scratch_ = 0;  // resumed
};

TEST_F(DiskFull, APeriodicSaveIsTriedAgainLater) {
  constexpr int64_t kCalls = 3;
  int64_t runs = 0, same = 0;
  for (const int error : {ENOSPC, EDQUOT, EIO, EROFS})
    for (const int64_t first : {1, 20, 60, 90}) {
      const std::string out = join("out-", runs++);
      const Outcome o = job_.train(out, kFewSteps, fault(out, "/checkpoint-", first, kCalls, error));
      const std::string where = join(std::strerror(error), " from call ", first, ": ");
      EXPECT_EQ(o.code, 0) << where << o.err;
      EXPECT_TRUE(contains(o.out, "not saved at step")) << where;
      EXPECT_TRUE(contains(o.out, std::strerror(error))) << where;
      same += job_.result(out) == wanted_;
      EXPECT_EQ(newest_step(job_ / out), 20) << where;
      expect_clean(out);
    }
  std::cout << "disk full: " << runs << " runs whose saves failed for " << kCalls
            << " calls went on and saved later: " << same << " ended with the same bytes\n";
  EXPECT_EQ(same, runs);
}

TEST_F(DiskFull, ABestStepThatCannotBeSavedIsNone) {
  // So high a rate that the lowest loss is not that of the last step, or nothing is shown.
  const std::vector<std::string> settings = {"--max_steps=12",
                                             "--save_steps=0",
                                             "--val_size=0.1",
                                             "--eval_steps=1",
                                             "--learning_rate=0.1",
                                             "--eval_samples=0",
                                             "--load_best_model_at_end=true"};
  const auto best_of = [&](const std::string& out) {
    return read_json(job_ / out / "trainer_state.json")["best_global_step"].get<int64_t>();
  };
  ASSERT_EQ(job_.train("best", settings).code, 0);
  const int64_t best = best_of("best");
  ASSERT_LT(best, 12);
  const Outcome o = job_.train("out", settings, fault("out", join("/checkpoint-", best, "."), 1, 3, ENOSPC));
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_TRUE(contains(o.out, join("not saved at step ", best, ", going on"))) << o.out;
  EXPECT_NE(best_of("out"), best);
  EXPECT_TRUE(has_checkpoint(job_ / "out", run_of(job_ / "out"), best_of("out")));
  expect_clean("out");
}

TEST_F(DiskFull, TheLastSaveWaitsForSpace) {
  for (const std::string only : {"/checkpoint-20", "/saving.tmp"}) {
    const std::string out = "out" + std::string(only == "/saving.tmp" ? "-result" : "-checkpoint");
    const Outcome o = job_.train(out, kFewSteps, fault(out, only, 3, 1, ENOSPC));
    EXPECT_EQ(o.code, 0) << only << o.err;
    EXPECT_TRUE(contains(o.out, "waiting for space")) << only;
    EXPECT_TRUE(job_.result(out) == wanted_) << only;
    expect_clean(out);
  }
}

TEST_F(DiskFull, ASignalEndsTheWait) {
  Program run("lora-train", job_.arguments("out", kFewSteps), fault("out", "/saving.tmp", 3, -1, ENOSPC));
  ASSERT_TRUE(run.says("waiting for space"));
  sleep_for(0.3);
  EXPECT_TRUE(run.runs());
  run.signal(SIGTERM);
  const double sent = run.seconds();
  const Outcome o = run.wait();
  EXPECT_EQ(o.code, 143) << o.err;
  EXPECT_LT(o.seconds - sent, 60);
  EXPECT_EQ(newest_step(job_ / "out"), 20);
  EXPECT_FALSE(fs::exists(job_ / "out/manifest.json"));
  expect_resumes("out");
  EXPECT_EQ(from_checkpoints_, 1);
}

TEST_F(DiskFull, OrFailsWithThePreviousOneIntact) {
  int64_t runs = 0;
  for (const int error : {ENOSPC, EIO}) {
    for (const std::string only : {"/checkpoint-20", "/saving.tmp"}) {
      ++runs;
      const std::string out = join("out-", error, only == "/saving.tmp" ? "-result" : "-checkpoint");
      const Outcome o = job_.train(out, with({"--on_disk_full=fail"}), fault(out, only, 3, 1, error));
      EXPECT_EQ(o.code, 5) << only << o.err;
      EXPECT_TRUE(contains(o.err, std::strerror(error)));
      EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << o.err;
      EXPECT_GE(newest_step(job_ / out), 18) << only;
      expect_clean(out);
      expect_resumes(out);
    }
  }
  EXPECT_EQ(from_checkpoints_, runs);
}

// The disk is full from here on for everything, deletions aside.
TEST_F(DiskFull, ForGood) {
  int64_t runs = 0, refused = 0;
  for (int64_t first = 1; first < 1200; first += 113) {
    const std::string out = join("out-", runs++);
    const Outcome o = job_.train(out, with({"--on_disk_full=fail"}), fault(out, "", first, -1, ENOSPC));
    EXPECT_TRUE(o.code == 5 || (o.code == 0 && job_.result(out) == wanted_)) << o.code << o.err;
    EXPECT_TRUE(o.code == 0 || contains(o.err, "No space left on device"));
    if (fs::exists(job_ / out)) {
      for (const Checkpoint& checkpoint : list_checkpoints(job_ / out)) EXPECT_EQ(damage(checkpoint.path), "") << first;
      expect_resumes(out);
    }
    refused += o.code == 5;
  }
  std::cout << "disk full: for good from " << runs << " calls on: " << refused
            << " ended with exit 5; resumed to the same bytes " << from_checkpoints_ << " from the newest checkpoint, "
            << from_scratch_ << " without one\n";
  EXPECT_GT(from_checkpoints_, from_scratch_);
}

TEST_F(DiskFull, ALimitOnTheSizeOfFiles) {
  const auto limited = [](rlim_t bytes) {
    return Setting{.in_child = [bytes] {
      const rlimit limit = {bytes, RLIM_INFINITY};
      ::setrlimit(RLIMIT_FSIZE, &limit);
    }};
  };
  // Lifted in the middle: saves fail, then succeed.
  const std::vector<std::string> flags = {"--r=32", "--max_steps=200"};
  ASSERT_EQ(job_.train("wide", flags).code, 0);
  Program run("lora-train", job_.arguments("out", flags), limited(60000));
  ASSERT_TRUE(run.says("not saved at step") && run.hold()) << run.said();
  const rlimit none = {RLIM_INFINITY, RLIM_INFINITY};
  ASSERT_EQ(::prlimit(run.pid(), RLIMIT_FSIZE, &none, nullptr), 0);
  run.go_on();
  const Outcome o = run.wait();
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_TRUE(contains(o.out, "File too large"));
  EXPECT_TRUE(job_.result("out") == job_.result("wide"));
  expect_clean("out");
  // To the end: exit 5, and not a signal.
  const Outcome end = job_.train("out2", {"--r=32", "--max_steps=4", "--on_disk_full=fail"}, limited(60000));
  EXPECT_EQ(end.code, 5) << end.signal << end.err;
  EXPECT_TRUE(contains(end.err, "File too large"));
  expect_clean("out2");
}

TEST_F(DiskFull, TheLogIsNoReasonToStop) {
  for (const int error : {ENOSPC, EIO}) {
    const std::string out = join("out-", error);
    // For a while: what was missed comes later.
    const Outcome o = job_.train(out, kFewSteps, fault(out, "/train_log.jsonl", 12, 10, error));
    EXPECT_EQ(o.code, 0) << o.err;
    EXPECT_TRUE(contains(o.out, "going on without the log"));
    EXPECT_TRUE(job_.result(out) == wanted_);
    const std::string log = read_bytes(job_ / out / "train_log.jsonl");
    EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 20) << log;
    expect_clean(out);
  }
  // For good: the result is what counts.
  const Outcome o = job_.train("out", kFewSteps, fault("out", "/train_log.jsonl", 12, -1, EIO));
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_TRUE(job_.result("out") == wanted_);
}

}  // namespace
}  // namespace rankfold::faults
