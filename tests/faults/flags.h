// How much of each test: the defaults are for every build, tests/soak.sh asks for more.
#pragma once

#include <cstdint>
#include <string>

namespace rankfold::faults {

struct Flags {
  int64_t instants = 16;                // --instants: kills of a run; of a merge or a cleaning half as many
  int64_t signals = 24;                 // --signals: signals to a run; to a merge or a cleaning a fourth
  int64_t steps = 2000;                 // --steps: of the run that must not grow
  int64_t flips = 1000;                 // --flips: bytes of a checkpoint
  int64_t states = 3;                   // --states: random states of the disk after each call
  int64_t pause = 5;                    // --pause: seconds that a run is stopped
  int64_t rows = 30000;                 // --rows: of the large file
  int64_t mib = 512;                    // --mib: of the large base
  uint64_t seed = 1;                    // --seed: of instants, flips and states
  std::string device = "cpu";           // --device: of the programs' runs
  std::string programs = RANKFOLD_BIN;  // --programs: their folder
};
inline Flags flags;

// The same numbers everywhere, unlike std::uniform_int_distribution's.
class Random {
 public:
  explicit Random(uint64_t salt) : state_(flags.seed * 0x9E3779B97F4A7C15ULL + salt) {}
  uint64_t below(uint64_t limit) {
    state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
    return (state_ >> 33) % limit;
  }
  double unit() { return static_cast<double>(below(1 << 30)) / (1 << 30); }

 private:
  uint64_t state_;
};

}  // namespace rankfold::faults
