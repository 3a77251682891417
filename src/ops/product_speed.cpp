#include "ops/product_speed.h"

#include "ops/gemm.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <array>
#include <chrono>

namespace rankfold::ops {
namespace {

using SpeedClock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr int64_t kSpeedRows = 128, kSpeedSize = 512;
constexpr int kFewestRounds = 2;  // the first compiles code and starts threads
constexpr auto kLongEnough = 10ms;

ProductSpeed measure() {
  const c10::NoGradGuard no_grad;
  struct Side {
    at::Tensor x, w;
    double seconds = 1e9;  // of the fastest product
  };
  std::array<Side, 2> sides;
  for (size_t i = 0; i < sides.size(); ++i) {
    const auto options = at::TensorOptions(i == 0 ? at::kFloat : at::kBFloat16);
    sides[i].x = at::ones({kSpeedRows, kSpeedSize}, options);
    sides[i].w = at::ones({kSpeedSize, kSpeedSize}, options);
  }
  const auto start = SpeedClock::now();
  // In turns, so that what else the machine does meets both.
  for (int round = 0; round < kFewestRounds || SpeedClock::now() - start < kLongEnough; ++round)
    for (Side& side : sides) {
      const auto begin = SpeedClock::now();
      gemm_nt(side.x, side.w);
      const std::chrono::duration<double> taken = SpeedClock::now() - begin;
      side.seconds = std::min(side.seconds, std::max(taken.count(), 1e-9));
    }
  constexpr double kGigaflop = 2e-9 * kSpeedRows * kSpeedSize * kSpeedSize;
  return {.float32 = kGigaflop / sides[0].seconds, .bfloat16 = kGigaflop / sides[1].seconds};
}

}  // namespace

const ProductSpeed& product_speed() {
  static const ProductSpeed speed = measure();
  return speed;
}

}  // namespace rankfold::ops
