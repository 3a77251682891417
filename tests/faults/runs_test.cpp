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

class Runs : public ::testing::Test, protected World {
 protected:
  static std::string result(const fs::path& out) {
    return fs::exists(out / "adapter_model.safetensors") ? read_bytes(out / "adapter_model.safetensors") : "";
  }

  // A run of three steps that saves at two and three and keeps one. False once the fault is beyond the run's last call.
  bool attempt(const std::string& wanted, int error, int64_t first, bool lasts) {
    const TempFolder folder;
    TrainConfig config = settings(folder / "out", 3);
    config.save_total_limit = 1;
    config.on_disk_full = "fail";
    const std::string where = join(std::strerror(error), lasts ? " from call " : " at call ", first);
    std::string line;
    int64_t computed = 0;
    start({.root = folder.path(), .first = first, .count = lasts ? -1 : 1, .error = error});
    try {
      train(config, {}, [&](const Progress& progress) { computed = progress.step; });
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
    // A save that succeeded is found again, and from it the run ends as it should.
    try {
      const auto found = newest_checkpoint(config.output_dir, {});
      EXPECT_TRUE(found || computed < 3 || lasts) << at << "no checkpoint";
      EXPECT_TRUE(lasts || computed < 3 || found->step >= 2) << at << "step " << found->step;
    } catch (const Error& lost) {
      ADD_FAILURE() << at << lost.what();
    }
    if (runs_ % 5 == 0) {
      config.resume_from_checkpoint = "auto";
      train(config);
      EXPECT_EQ(result(config.output_dir), wanted) << at << "resumed";
      ++resumed_;
    }
    return true;
  }

  int64_t runs_ = 0, went_on_ = 0, ended_ = 0, resumed_ = 0;
};

TEST_F(Runs, EveryCall) {
  const TempFolder clean;
  train(settings(clean / "out", 3));
  const std::string wanted = result(clean / "out");
  int64_t calls = 0;
  for (int64_t first = 1; attempt(wanted, first % 2 ? EIO : ENOSPC, first, false); ++first) calls = first;
  for (int64_t first = 1; attempt(wanted, ENOSPC, first, true);) first += 4;
  std::cout << "faults: a run of 3 steps: " << calls << " calls, each once and every fourth from then on: " << runs_
            << " runs: " << went_on_ << " ended well, " << ended_ << " with an error of storage; " << resumed_
            << " resumed to the same bytes\n";
}

// A signal that interrupts a call is no fault.
TEST_F(Runs, EveryCallInterrupted) {
  const TempFolder clean;
  train(settings(clean / "out", 3));
  int64_t first = 1;
  for (bool met = true; met; ++first) {
    const TempFolder folder;
    start({.root = folder.path(), .first = first, .count = 2, .error = EINTR});
    EXPECT_NO_THROW(train(settings(folder / "out", 3))) << "call " << first;
    const Report report = stop();
    met = report.failed > 0;
    EXPECT_EQ(result(folder / "out"), result(clean / "out"))
        << (report.failures.empty() ? "" : report.failures.front());
    EXPECT_EQ(newest_checkpoint(folder / "out", {}).value_or(Checkpoint{}).step, 3);
  }
  std::cout << "faults: a run of 3 steps, each of its " << first - 2 << " calls interrupted by a signal twice\n";
}

}  // namespace
}  // namespace rankfold::faults
