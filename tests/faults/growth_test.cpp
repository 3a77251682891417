// A long run in one process takes no more memory and no more descriptors at its end than at its begin.
#include "core/check.h"
#include "faults/flags.h"
#include "faults/world.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <iostream>

namespace rankfold::faults {
namespace {

int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t all = 0, resident = 0;
  file >> all >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

int64_t descriptors() { return std::distance(fs::directory_iterator("/proc/self/fd"), {}); }

TEST(Growth, ManySteps) {
  const World world;
  const TempFolder folder;
  TrainConfig config = world.settings(folder / "out", flags.steps);
  config.save_steps = 50;
  config.save_total_limit = 2;
  config.logging_steps = 100;  // rows of the log are kept, by design
  const int64_t settled = std::min<int64_t>(1000, flags.steps / 4);
  int64_t before = 0, open_before = 0, most = 0, most_open = 0;
  world.train(config, {}, [&](const Progress& progress) {
    if (progress.step == settled) before = resident_bytes(), open_before = descriptors();
    if (progress.step > settled && progress.step % 50 == 7) {
      most = std::max(most, resident_bytes());
      most_open = std::max(most_open, descriptors());
    }
  });
  const double growth = static_cast<double>(most - before) / static_cast<double>(before);
  std::cout << "growth: " << flags.steps << " steps: memory " << (before >> 10) << " KiB after step " << settled
            << ", at most " << (most >> 10) << " KiB later (" << 100 * growth << " %), descriptors " << open_before
            << " and at most " << most_open << "\n";
  EXPECT_LT(most - before, before / 100 + (512 << 10));
  EXPECT_EQ(most_open, open_before);
}

}  // namespace
}  // namespace rankfold::faults
