// Processor time of this process: what other processes take of the machine is nothing to a limit on ours.
#pragma once

#include <ctime>

namespace rankfold::testing {

class Stopwatch {
 public:
  double seconds() const { return static_cast<double>(std::clock() - start_) / CLOCKS_PER_SEC; }

 private:
  std::clock_t start_ = std::clock();
};

}  // namespace rankfold::testing
