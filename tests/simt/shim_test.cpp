// The shim must see every bug it claims to see: each test runs a tiny kernel with one seeded bug, and its correct twin.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <functional>
#include <iostream>
#include <numeric>
#include <thread>
#include <vector>

#include "simt/engine.h"
#include "support/contains.h"

namespace {

using rankfold::testing::contains;
using simt::Order;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kAsan = true;
#else
constexpr bool kAsan = false;
#endif
#if defined(__SANITIZE_THREAD__)
constexpr bool kTsan = true;
#else
constexpr bool kTsan = false;
#endif

// One block unless a test says otherwise. `variant` chooses between a kernel and its twins with a bug.
struct Params {
  const float* in;
  float* out;
  int variant;
};
using Kernel = void (*)(Params);

constexpr unsigned kThreads = 128;
constexpr int kCorrect = 0;

std::vector<float> run(Kernel kernel, int variant, size_t shared_bytes = 4096, simt::Dim block = {kThreads},
                       simt::Dim grid = {}) {
  std::vector<float> in(4096), out(4096);
  std::iota(in.begin(), in.end(), 1.0f);
  simt::launch({"seeded", grid, block, shared_bytes}, kernel, {in.data(), out.data(), variant});
  return out;
}

std::string failure(const std::function<void()>& body) {
  try {
    body();
  } catch (const simt::Failure& error) {
    return error.what();
  }
  return "";
}

std::vector<uint32_t> bits(const std::vector<float>& values) {
  std::vector<uint32_t> result;
  for (const float value : values) result.push_back(std::bit_cast<uint32_t>(value));
  return result;
}

struct ShimTest : testing::Test {
  ShimTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }  // a fresh process for each death test
  ~ShimTest() override { simt::set_order(before.order, before.seed); }

  const simt::Setting before = simt::set_order(Order::forward);

  static bool orders_agree(Kernel kernel, int variant) {
    simt::set_order(Order::forward);
    const auto forward = bits(run(kernel, variant));
    simt::set_order(Order::backward);
    const auto backward = bits(run(kernel, variant));
    simt::set_order(Order::random, 7);
    return forward == backward && forward == bits(run(kernel, variant));
  }

  // TSan reports the race whatever the order, when its process ends; otherwise the orders differ.
  static void expect_race(Kernel kernel, int variant) {
    if (kTsan) {
      EXPECT_EXIT((run(kernel, variant), std::exit(0)), testing::ExitedWithCode(66), "ThreadSanitizer: data race");
    } else {
      EXPECT_FALSE(orders_agree(kernel, variant));
    }
  }

  static void expect_no_race(Kernel kernel, int variant) {
    EXPECT_TRUE(orders_agree(kernel, variant));
    if (kTsan) {
      EXPECT_EXIT((run(kernel, variant), std::exit(0)), testing::ExitedWithCode(0), "");
    }
  }
};

// --- Indices

void indices_kernel(Params p) {
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  p.out[block * 64 + thread] = static_cast<float>(block * 1000 + simt::lane());
}

TEST_F(ShimTest, RunsEachThreadOfEachBlockOnce) {
  for (const Order order : {Order::forward, Order::backward, Order::random}) {
    simt::set_order(order, 3);
    const std::vector<float> out = run(indices_kernel, kCorrect, 0, {8, 4, 2}, {3, 2, 2});
    for (unsigned i = 0; i < 12 * 64; ++i) ASSERT_EQ(out[i], static_cast<float>(i / 64 * 1000 + i % 32)) << i;
  }
}

// Which thread and block came when: a race, which TSan must overlook here.
__attribute__((no_sanitize("thread"))) void turns_kernel(Params p) {
  p.out[1 + blockIdx.x * 32 + threadIdx.x] = p.out[0]++;
}

std::vector<float> turns() { return run(turns_kernel, kCorrect, 0, {32}, {3}); }

TEST_F(ShimTest, RunsThreadsAndBlocksInTheOrderSet) {
  const std::vector<float> forward = turns();
  simt::set_order(Order::backward);
  const std::vector<float> backward = turns();
  for (int i = 0; i < 96; ++i) {
    EXPECT_EQ(forward[1 + i], i);
    EXPECT_EQ(backward[1 + i], 95 - i);
  }
  simt::set_order(Order::random, 1);
  const std::vector<float> first = turns(), again = turns();
  simt::set_order(Order::random, 2);
  EXPECT_EQ(first, again);
  EXPECT_NE(first, forward);
  EXPECT_NE(first, turns());
  EXPECT_EQ(simt::set_order(Order::forward).seed, 2u);
}

// Exits with the turn that the last thread had.
[[noreturn]] void exit_with_order(const char* name) {
  setenv("RANKFOLD_SIMT_ORDER", name, 1);
  try {
    std::exit(static_cast<int>(turns()[96]));
  } catch (const std::invalid_argument& error) {
    std::cerr << error.what();
    std::exit(1);
  }
}

TEST(ShimOrderTest, ComesFromTheEnvironment) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(exit_with_order("forward"), testing::ExitedWithCode(95), "");
  EXPECT_EXIT(exit_with_order("backward"), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(exit_with_order("sideways"), testing::ExitedWithCode(1), "expected forward, backward or random:SEED");
}

TEST_F(ShimTest, SeveralOsThreadsLaunchAtOnce) {
  std::vector<std::vector<float>> out(2);
  std::thread other([&] { out[0] = turns(); });
  out[1] = turns();
  other.join();
  EXPECT_EQ(out[0], out[1]);
}

TEST_F(ShimTest, RefusesBlocksThatAGpuCannotRun) {
  EXPECT_TRUE(contains(failure([] { run(indices_kernel, kCorrect, 0, {33}); }), "kernel 'seeded': block (33,1,1)"));
  EXPECT_TRUE(contains(failure([] { run(indices_kernel, kCorrect, 0, {1056}); }), "at most 1024"));
  EXPECT_TRUE(contains(failure([] { run(indices_kernel, kCorrect, 0, {0}); }), "block (0,1,1)"));
  EXPECT_TRUE(contains(failure([] { run(indices_kernel, kCorrect, 0, {32}, {0}); }), "grid (0,1,1)"));
}

TEST_F(ShimTest, CountsLaunchesByName) {
  const int64_t before = simt::launches()["seeded"];
  run(indices_kernel, kCorrect);
  run(indices_kernel, kCorrect);
  EXPECT_EQ(simt::launches()["seeded"], before + 2);
}

// --- Barriers

constexpr int kNoBarrier = 1, kNoSecondBarrier = 2;

// Two turns over one buffer: a barrier before the neighbour's element is read and one before it is overwritten.
void neighbour_kernel(Params p) {
  simt::Shared shared;
  float* buffer = shared.take<float>(kThreads);
  float sum = 0;
  for (unsigned turn = 0; turn < 3; ++turn) {
    buffer[threadIdx.x] = p.in[turn * kThreads + threadIdx.x];
    if (p.variant != kNoBarrier) __syncthreads();
    sum += buffer[(threadIdx.x + 1) % kThreads];
    if (p.variant != kNoSecondBarrier) __syncthreads();
  }
  p.out[threadIdx.x] = sum;
}

TEST_F(ShimTest, SeesMissingBarriers) {
  expect_no_race(neighbour_kernel, kCorrect);
  EXPECT_EQ(run(neighbour_kernel, kCorrect)[0], 2.0f + 130.0f + 258.0f);
  expect_race(neighbour_kernel, kNoBarrier);
  expect_race(neighbour_kernel, kNoSecondBarrier);
}

constexpr int kTwoBarriers = 1, kOneLeaves = 2, kAllOthersLeave = 3, kHalfSkips = 4;

void diverging_kernel(Params p) {
  if (p.variant == kOneLeaves && threadIdx.x == 5) return;
  if (p.variant == kAllOthersLeave && threadIdx.x != 127) return;
  if (p.variant == kTwoBarriers && threadIdx.x % 2 == 0) {
    __syncthreads();
  } else if (p.variant != kHalfSkips || threadIdx.x < 64) {
    __syncthreads();
  }
  p.out[threadIdx.x] = 1;
}

TEST_F(ShimTest, SeesBarriersThatNotAllThreadsReach) {
  for (const Order order : {Order::forward, Order::backward, Order::random}) {
    simt::set_order(order, 1);
    EXPECT_EQ(run(diverging_kernel, kCorrect)[127], 1.0f);
    EXPECT_TRUE(contains(failure([] { run(diverging_kernel, kTwoBarriers); }),
                         "kernel 'seeded' block (0,0,0): barrier divergence: threads at two different __syncthreads"));
    for (const int variant : {kOneLeaves, kAllOthersLeave, kHalfSkips}) {
      EXPECT_TRUE(contains(failure([&] { run(diverging_kernel, variant); }), "barrier divergence")) << variant;
    }
  }
}

TEST_F(ShimTest, SaysWhereTheThreadsStand) {
  const std::string left = failure([] { run(diverging_kernel, kAllOthersLeave); });
  EXPECT_TRUE(contains(left, "\n  left the kernel: threads 0-126\n"));
  EXPECT_TRUE(contains(left, "\n  runs, last at __syncthreads shim_test.cpp:"));
  EXPECT_TRUE(contains(left, ": threads 127\n"));
  const std::string apart = failure([] { run(diverging_kernel, kTwoBarriers); });
  EXPECT_TRUE(contains(apart, "\n  waits at __syncthreads shim_test.cpp:"));
  EXPECT_TRUE(contains(apart, "\n  not started: threads 2-127"));
}

void large_block_kernel(Params p) {
  simt::Shared shared;
  float* buffer = shared.take<float>(512);
  buffer[threadIdx.x] = p.in[threadIdx.x];
  for (unsigned half = 256; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) buffer[threadIdx.x] += buffer[threadIdx.x + half];
  }
  __syncthreads();
  p.out[threadIdx.x] = buffer[0];
}

TEST_F(ShimTest, RunsBlocksOf512Threads) {
  EXPECT_EQ(run(large_block_kernel, kCorrect, 2048, {512})[511], 512.0f * 513 / 2);
}

// --- Warp collectives

constexpr int kTwoCollectives = 1, kOutsideOwnMask = 2, kSourceOutsideMask = 3, kOverlappingMasks = 4, kLaneLeaves = 5,
              kBarrierInOneLane = 6, kLaneLeftBefore = 7;

void warp_kernel(Params p) {
  const unsigned lane = threadIdx.x;
  float value = p.in[lane];
  if (p.variant == kLaneLeaves && lane == 9) return;
  if (p.variant == kLaneLeftBefore && lane != 9) return;
  if (p.variant == kBarrierInOneLane && lane == 3) __syncthreads();
  if (p.variant == kTwoCollectives && lane % 2 == 0) {
    value += __shfl_xor_sync(~0u, value, 1);
  } else if (p.variant == kOutsideOwnMask) {
    value += __shfl_xor_sync(0xffff, value, 1);
  } else if (p.variant == kSourceOutsideMask) {
    value += __shfl_sync(lane < 16 ? 0xffff : 0xffff0000, value, 31);
  } else if (p.variant == kOverlappingMasks) {
    value += __shfl_sync(lane < 16 ? 0x1ffff : ~0u, value, 0);
  } else {
    value += __shfl_xor_sync(~0u, value, 1);
  }
  p.out[lane] = value;
}

TEST_F(ShimTest, SeesWarpCollectivesThatDiverge) {
  const auto seeded = [](int variant) { return failure([&] { run(warp_kernel, variant, 0, {32}); }); };
  for (const Order order : {Order::forward, Order::backward, Order::random}) {
    simt::set_order(order, 1);
    EXPECT_EQ(run(warp_kernel, kCorrect, 0, {32})[0], 3.0f);
    EXPECT_TRUE(contains(seeded(kTwoCollectives), "warp divergence: lanes at two different collectives"));
    EXPECT_TRUE(contains(seeded(kOutsideOwnMask), "is not in its own mask 0x0000ffff"));
    EXPECT_TRUE(contains(seeded(kSourceOutsideMask), "reads lane 31, which is not in the mask 0x0000ffff"));
    EXPECT_TRUE(contains(seeded(kOverlappingMasks), "wait for each other"));
    EXPECT_TRUE(contains(seeded(kLaneLeaves), "warp divergence: lane"));
    EXPECT_TRUE(contains(seeded(kLaneLeftBefore), "warp divergence: lane"));
    EXPECT_TRUE(contains(seeded(kBarrierInOneLane), "deadlock: no thread can go on"));
  }
}

struct Pair {
  double a;
  int b;
};

void shuffles_kernel(Params p) {
  const int lane = static_cast<int>(threadIdx.x);
  const unsigned half = lane < 16 ? 0x0000ffff : 0xffff0000;
  const Pair pair = __shfl_sync(half, Pair{lane + 0.5, lane}, lane < 16 ? 4 : 20);
  p.out[lane] = static_cast<float>(pair.a + pair.b);
  p.out[32 + lane] = static_cast<float>(__shfl_down_sync(~0u, lane, 4));
  p.out[64 + lane] = static_cast<float>(__shfl_xor_sync(~0u, static_cast<uint16_t>(lane), 16));
  p.out[96 + lane] = static_cast<float>(__shfl_sync(half, lane, lane / 16 * 16 + (lane + 1) % 16));
}

TEST_F(ShimTest, ShufflesAsTheManualSays) {
  for (const Order order : {Order::forward, Order::backward, Order::random}) {
    simt::set_order(order, 5);
    const std::vector<float> out = run(shuffles_kernel, kCorrect, 0, {32});
    for (int lane = 0; lane < 32; ++lane) {
      EXPECT_EQ(out[lane], lane < 16 ? 8.5f : 40.5f);
      EXPECT_EQ(out[32 + lane], lane < 28 ? lane + 4 : lane);
      EXPECT_EQ(out[64 + lane], lane ^ 16);
      EXPECT_EQ(out[96 + lane], lane / 16 * 16 + (lane + 1) % 16);
    }
  }
}

struct Fragment {
  float values[16];
};

// Each exchange must outlive the shuffles that other lanes go on to.
void exchange_kernel(Params p) {
  const unsigned lane = threadIdx.x % 32;
  Fragment mine;
  for (float& value : mine.values) value = static_cast<float>(threadIdx.x);
  float sum = 0;
  for (int turn = 0; turn < 5; ++turn) {
    const Fragment* all = simt::exchange(mine);
    const unsigned half = lane < 16 ? 0x0000ffff : 0xffff0000;
    for (int i = 0; i < 3; ++i) mine.values[0] += __shfl_xor_sync(half, 0.0f, 1);
    for (unsigned i = 0; i < 32; ++i) sum += all[i].values[i % 16];
  }
  p.out[threadIdx.x] = sum;
}

TEST_F(ShimTest, ExchangesTheValuesOfAWarp) {
  for (const Order order : {Order::forward, Order::backward, Order::random}) {
    simt::set_order(order, 11);
    const std::vector<float> out = run(exchange_kernel, kCorrect);
    for (unsigned i = 0; i < kThreads; ++i) ASSERT_EQ(out[i], 5.0f * (32 * (i / 32 * 32) + 496)) << i;
  }
}

constexpr int kNoWarpBarrier = 1;

// A shuffle orders nothing, so that TSan sees a missing __syncwarp although the lanes meet in the shuffle.
void warp_memory_kernel(Params p) {
  simt::Shared shared;
  float* buffer = shared.take<float>(kThreads);
  buffer[threadIdx.x] = p.in[threadIdx.x];
  if (p.variant != kNoWarpBarrier) __syncwarp();
  const float one = __shfl_sync(~0u, 1.0f, 0);
  p.out[threadIdx.x] = buffer[threadIdx.x ^ 1] + one;
}

TEST_F(ShimTest, SeesAMissingWarpBarrier) {
  expect_no_race(warp_memory_kernel, kCorrect);
  if (kTsan) expect_race(warp_memory_kernel, kNoWarpBarrier);
}

// --- Shared memory

constexpr int kUninitialised = 1, kReadBeyond = 2, kWriteBeyond = 3, kWriteBefore = 4, kTooLarge = 5,
              kDifferentType = 6, kDifferentCount = 7, kOneArrayMore = 8, kSecondShared = 9, kReadNextRow = 10;
constexpr size_t kCarved = 64 * 4 + 96 * 8;

void carving_kernel(Params p) {
  const unsigned i = threadIdx.x;
  simt::Shared shared;
  float* a = shared.take<float>(p.variant == kDifferentCount && i == 40 ? 65 : 64);
  double* b = p.variant == kDifferentType && i >= 64 ? reinterpret_cast<double*>(shared.take<int64_t>(96))
                                                     : shared.take<double>(p.variant == kTooLarge ? 97 : 96);
  if (p.variant == kOneArrayMore && i == 40) shared.take<float>(0);
  if (p.variant == kSecondShared) simt::Shared().take<float>(64);
  if (i < 64 && !(p.variant == kUninitialised && blockIdx.x == 1)) a[i] = 1;
  if (i < 96) b[i] = 2;
  if (p.variant == kWriteBeyond && i == 0) a[64] = 3;
  if (p.variant == kWriteBefore && i == 0) a[-1] = 3;
  __syncthreads();
  float& out = p.out[blockIdx.x * kThreads + i];
  out = a[i % 64] + static_cast<float>(b[i % 96]);
  if (p.variant == kReadBeyond && i == 0) out = a[64];
  if (p.variant == kReadNextRow && i == 0) out = a[64 + 64];
}

std::vector<float> carve(int variant) { return run(carving_kernel, variant, kCarved, {kThreads}, {2}); }

TEST_F(ShimTest, SharedMemoryStartsAsNaNInEachBlock) {
  EXPECT_TRUE(orders_agree(carving_kernel, kCorrect));
  const std::vector<float> correct = carve(kCorrect), seeded = carve(kUninitialised);
  for (unsigned i = 0; i < 2 * kThreads; ++i) {
    EXPECT_EQ(correct[i], 3.0f) << i;
    EXPECT_EQ(std::isnan(seeded[i]), i >= kThreads) << i;
  }
}

TEST_F(ShimTest, SeesIndicesBeyondAnArray) {
  if (kAsan) {
    for (const int variant : {kReadBeyond, kReadNextRow, kWriteBeyond, kWriteBefore}) {
      EXPECT_DEATH(carve(variant), "use-after-poison.*\n.*\n.*\n.*carving_kernel") << variant;
    }
  } else {
    EXPECT_TRUE(contains(failure([] { carve(kWriteBeyond); }), "written 0 bytes past the end of array 0, float[64]"));
    EXPECT_TRUE(contains(failure([] { carve(kWriteBefore); }), "written 4 bytes before the first array"));
    EXPECT_TRUE(std::isnan(carve(kReadBeyond)[0]));
    EXPECT_TRUE(std::isnan(carve(kReadNextRow)[0]));
  }
}

TEST_F(ShimTest, SeesMoreSharedMemoryThanGiven) {
  EXPECT_TRUE(
      contains(failure([] { carve(kTooLarge); }), "array 1 of 97 x 8 bytes at offset 256, the launch gave 1024 bytes"));
}

TEST_F(ShimTest, SeesThreadsThatCarveDifferently) {
  for (const Order order : {Order::forward, Order::backward, Order::random}) {
    simt::set_order(order, 2);
    for (const int variant : {kDifferentType, kDifferentCount, kOneArrayMore}) {
      EXPECT_TRUE(contains(failure([&] { carve(variant); }), "threads carve differently")) << variant;
    }
  }
  simt::set_order(Order::forward);
  EXPECT_TRUE(
      contains(failure([&] { carve(kDifferentType); }), "array 1 is long int[96] here, double[96] in another thread"));
  EXPECT_TRUE(contains(failure([&] { carve(kSecondShared); }), "a second simt::Shared"));
}

// --- Asynchronous copies

constexpr int kNoWait = 1, kWaitTooLax = 2, kNoBarrierAfterWait = 3, kNoBarrierBeforeCopy = 4, kMisaligned = 5,
              kOddSize = 6, kBeyondArray = 7, kNoCommit = 8;

// Four tiles through two buffers; each thread reads what its neighbour copied.
void staging_kernel(Params p) {
  constexpr int kTiles = 4;
  simt::Shared shared;
  float* buffers = shared.take<float>(2 * kThreads * 4);
  const unsigned i = threadIdx.x;
  const auto fetch = [&](int tile) {
    float* to = buffers + (tile % 2 * kThreads + i) * 4 + (p.variant == kMisaligned) +
                (p.variant == kBeyondArray && i == kThreads - 1 ? 2 * kThreads * 4 : 0);
    simt::copy_async(to, p.in + (tile * kThreads + i) * 4, p.variant == kOddSize ? 12 : 16);
    if (p.variant != kNoCommit) simt::commit();
  };
  float sum = 0;
  fetch(0);
  for (int tile = 0; tile < kTiles; ++tile) {
    if (tile + 1 < kTiles) {
      fetch(tile + 1);
      if (p.variant == kWaitTooLax) {
        simt::wait<2>();
      } else if (p.variant != kNoWait) {
        simt::wait<1>();
      }
    } else {
      simt::wait<0>();
    }
    if (p.variant != kNoBarrierAfterWait) __syncthreads();
    const float* from = buffers + (tile % 2 * kThreads + (i + 1) % kThreads) * 4;
    sum += from[0] + from[1] + from[2] + from[3];
    if (p.variant != kNoBarrierBeforeCopy) __syncthreads();
  }
  p.out[i] = sum;
}

TEST_F(ShimTest, SeesCopiesThatAreReadTooEarly) {
  expect_no_race(staging_kernel, kCorrect);
  EXPECT_EQ(run(staging_kernel, kCorrect)[0], 4 * (5.0f + 6 + 7 + 8) + 16 * 128 * (0 + 1 + 2 + 3));
  for (const Order order : {Order::forward, Order::backward, Order::random}) {
    simt::set_order(order, 9);
    for (const int variant : {kNoWait, kWaitTooLax})
      EXPECT_TRUE(std::isnan(run(staging_kernel, variant)[0])) << variant;
  }
  expect_race(staging_kernel, kNoBarrierAfterWait);
  expect_race(staging_kernel, kNoBarrierBeforeCopy);
}

TEST_F(ShimTest, RefusesCopiesThatAGpuCannotMake) {
  const auto seeded = [](int variant) { return failure([&] { run(staging_kernel, variant); }); };
  EXPECT_TRUE(contains(seeded(kMisaligned), "copy_async: misaligned: 16 bytes"));
  EXPECT_TRUE(contains(seeded(kOddSize), "copy_async: 12 bytes, can be 4, 8 or 16"));
  EXPECT_TRUE(contains(seeded(kBeyondArray), "is in no array of shared memory"));
}

constexpr int kNeverWaited = 1;

void flight_kernel(Params p) {
  simt::Shared shared;
  float* buffer = shared.take<float>(kThreads);
  simt::copy_async(buffer + threadIdx.x, p.in + threadIdx.x, 4);
  simt::commit();
  if (p.variant != kNeverWaited) simt::wait<0>();
  p.out[threadIdx.x] = buffer[threadIdx.x];
}

TEST_F(ShimTest, SeesCopiesLeftInFlight) {
  EXPECT_EQ(run(flight_kernel, kCorrect)[5], 6.0f);
  EXPECT_TRUE(contains(failure([] { run(flight_kernel, kNeverWaited); }), "leaves the kernel with 1 copies in flight"));
  EXPECT_TRUE(contains(failure([] { run(staging_kernel, kNoCommit); }), "leaves the kernel with 4 copies in flight"));
}

// --- Blocks and launches

#if defined(__SANITIZE_THREAD__)  // blocks run one after another, so nothing else can see that they are not ordered
constexpr int kSameWord = 1, kOneWriterABlock = 2;

void blocks_kernel(Params p) {
  __syncthreads();
  if (p.variant == kSameWord) p.out[threadIdx.x] += 1;
  if (p.variant == kOneWriterABlock && threadIdx.x == 0 && blockIdx.x % 5 == 0) p.out[0] += 1;
  __syncthreads();
  p.out[kThreads * (1 + blockIdx.x) + threadIdx.x] = 1;
}

void run_blocks(int variant) { run(blocks_kernel, variant, 0, {kThreads}, {30}); }

TEST_F(ShimTest, SeesRacesBetweenBlocks) {
  for (const int variant : {kSameWord, kOneWriterABlock}) {
    EXPECT_EXIT((run_blocks(variant), std::exit(0)), testing::ExitedWithCode(66), "ThreadSanitizer: data race");
  }
  EXPECT_EXIT((run_blocks(kCorrect), std::exit(0)), testing::ExitedWithCode(0), "");
}
#endif

// A grid that failed leaves nothing behind that would disturb, or be a race with, the next one.
TEST_F(ShimTest, WorksAfterAFailure) {
  for (const int variant : {kTwoBarriers, kOneLeaves, kHalfSkips}) {
    failure([&] { run(diverging_kernel, variant); });
    EXPECT_EQ(run(diverging_kernel, kCorrect)[0], 1.0f);
    failure([&] { run(warp_kernel, variant, 0, {32}); });
    EXPECT_TRUE(orders_agree(staging_kernel, kCorrect));
  }
}

void refusing_kernel(Params) {
  if (threadIdx.x == 33) simt::fail("seen by the kernel");
}

TEST_F(ShimTest, LetsKernelsFail) {
  EXPECT_TRUE(
      contains(failure([] { run(refusing_kernel, kCorrect); }), "kernel 'seeded' block (0,0,0): seen by the kernel"));
  EXPECT_THROW(simt::fail("seen outside of a kernel"), simt::Failure);
}

}  // namespace
