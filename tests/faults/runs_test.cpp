// A fault at every call of a whole run: it goes on, or ends with an error of storage from which it can be resumed.
#include "checkpoint/checkpoint.h"
#include "core/check.h"
#include "faults/flags.h"
#include "faults/shim.h"
#include "faults/world.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <iostream>

namespace rankfold::faults {
namespace {

constexpr int64_t kRun = 3, kStride = 4;  // steps of a run; calls from one lasting fault to the next

class Runs : public ::testing::Test, protected World {
 protected:
  static std::string result(const fs::path& out) {
    return fs::exists(out / "adapter_model.safetensors") ? read_bytes(out / "adapter_model.safetensors") : "";
  }

  // A run of three steps that saves at two and three and keeps one. False once the fault is beyond the run's last call.
  bool attempt(const std::string& wanted, int error, int64_t first, bool lasts) {
    const TempFolder folder;
    TrainConfig config = settings(folder / "out", kRun);
    config.save_total_limit = 1;
    config.on_disk_full = "fail";
    const std::string where = join(std::strerror(error), lasts ? " from call " : " at call ", first);
    std::string line, said;
    int64_t computed = 0;
    start({.root = folder.path(), .first = first, .count = lasts ? -1 : 1, .error = error});
    try {
      train(
          config, [&](const std::string& message) { said += message + "\n"; },
          [&](const Progress& progress) { computed = progress.step; });
    } catch (const Error& failed) {
      line = failed.what();
      EXPECT_EQ(failed.code(), ExitCode::kStorage) << where << ": " << line;
      EXPECT_NE(line.find(std::strerror(error)), std::string::npos) << where << ": " << line;
    } catch (const std::exception& other) {
      line = other.what();
      ADD_FAILURE() << where << ": no rankfold::Error: " << line;
    }
    const Report report = stop();
    if (report.failed == 0) return false;
    const std::string at = join(where, " (", report.failures.front(), "), ", line, ": ");
    ++runs_;
    line.empty() ? ++went_on_ : ++ended_;
    EXPECT_TRUE(!line.empty() || result(config.output_dir) == wanted) << at;
    const auto left = temporaries_below(config.output_dir);
    EXPECT_TRUE(left.empty() || report.deletions_failed) << at << "left " << (left.empty() ? "" : left.front());
    // Loaded, the result is the run's; it may also be refused.
    const std::string written = result(config.output_dir);
    EXPECT_TRUE(written.empty() || written == wanted || !loads(config.output_dir)) << at << "another result";
    // A save that succeeded is found again, and from it the run ends as it should. Of two one succeeds where one call
    // fails.
    const bool saved_at_two = computed == kRun && said.find("not saved at step 2") == std::string::npos;
    const int64_t at_least = line.empty() ? kRun : saved_at_two || (computed == kRun && !lasts) ? 2 : 0;
    int64_t newest = 0;
    try {
      newest = newest_checkpoint(config.output_dir, {}).value_or(Checkpoint{}).step;
      EXPECT_GE(newest, at_least) << at << said;
    } catch (const Error& lost) {
      ADD_FAILURE() << at << lost.what();
    }
    kept_ += at_least > 0 && lasts;
    if (runs_ % 5 == 0) {
      SCOPED_TRACE(at + "resumed");
      const bool good = resume(config, newest), same = result(config.output_dir) == wanted;
      EXPECT_TRUE(same);
      (newest > 0 ? from_checkpoints_ : from_scratch_) += good && same;
    }
    return true;
  }

  int64_t runs_ = 0, went_on_ = 0, ended_ = 0;
  int64_t kept_ = 0;  // runs whose fault lasted, though not from before their first save on
  int64_t from_checkpoints_ = 0, from_scratch_ = 0;  // resumed
};

TEST_F(Runs, EveryCall) {
  const TempFolder clean;
  train(settings(clean / "out", kRun));
  const std::string wanted = result(clean / "out");
  int64_t calls = 0;
  for (int64_t first = 1; attempt(wanted, first % 2 ? EIO : ENOSPC, first, false); ++first) calls = first;
  for (int64_t first = 1; attempt(wanted, ENOSPC, first, true);) first += kStride;
  std::cout << "faults: a run of " << kRun << " steps: " << calls << " calls, each once and every " << kStride
            << "th from then on: " << runs_ << " runs: " << went_on_ << " ended well, " << ended_
            << " with an error of storage; resumed to the same bytes " << from_checkpoints_
            << " from the newest checkpoint, " << from_scratch_ << " without one; where the fault lasted " << kept_
            << " kept a checkpoint\n";
  EXPECT_GT(kept_, 0);
  EXPECT_GT(from_checkpoints_, from_scratch_);
}

// A signal that interrupts a call is no fault.
TEST_F(Runs, EveryCallInterrupted) {
  const TempFolder clean;
  train(settings(clean / "out", kRun));
  constexpr int64_t kTimes = 2;
  int64_t calls = 0, good = 0;
  for (bool met = true; met;) {
    const TempFolder folder;
    start({.root = folder.path(), .first = calls + 1, .count = kTimes, .error = EINTR});
    EXPECT_NO_THROW(train(settings(folder / "out", kRun))) << "call " << calls + 1;
    const Report report = stop();
    met = report.failed > 0;
    const bool same = result(folder / "out") == result(clean / "out");
    EXPECT_TRUE(same) << (report.failures.empty() ? "" : report.failures.front());
    const int64_t newest = newest_checkpoint(folder / "out", {}).value_or(Checkpoint{}).step;
    EXPECT_EQ(newest, kRun);
    calls += met, good += met && same && newest == kRun;
  }
  EXPECT_EQ(good, calls);
  std::cout << "faults: a run of " << kRun << " steps, each of its " << calls << " calls interrupted by a signal "
            << kTimes << " times: " << good << " ended well\n";
}

}  // namespace
}  // namespace rankfold::faults
