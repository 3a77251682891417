// Every case of tests/kernels on fibers, in several orders of threads and blocks.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/cases.h"
#include "simt/engine.h"

namespace rankfold::kernels::testing {
void PrintTo(const Case& kernel_case, std::ostream* out) { *out << kernel_case.name; }
}  // namespace rankfold::kernels::testing

namespace {

using namespace rankfold::kernels::testing;
using rankfold::kernels::Stream;
using rankfold::kernels::Table;
using simt::Order;

// Fibers read and write host memory.
class SimtMachine : public Machine {
 public:
  void* allocate(size_t bytes) override { return std::malloc(bytes); }
  void release(void* data) override { std::free(data); }
  void upload(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void download(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void synchronize() override {}
  Stream stream() override { return nullptr; }
  int64_t shared_limit() override { return 227 << 10; }  // of an H100
};

struct Outcome {
  std::vector<std::string> failures;
  std::vector<std::byte> bytes;
};

Outcome run(const Case& kernel_case, Order order, bool checks) {
  static const Table table = rankfold::kernels::table_of_kernels();
  SimtMachine machine;
  simt::set_order(order, 17);
  Context context(machine, table, kernel_case.name, checks);
  try {
    kernel_case.run(context);
  } catch (const std::exception& error) {
    return {{error.what()}, {}};
  }
  return {context.failures(), context.bytes()};
}

#if defined(__SANITIZE_THREAD__)
constexpr bool kTsan = true;
#else
constexpr bool kTsan = false;
#endif

struct Again {
  const char* what;
  Order order;
};

std::vector<Again> repetitions() {
  if (kTsan) return {};  // it sees a race whatever the order, and is slow
  return {{"a second run", Order::forward}, {"backward order", Order::backward}, {"random order", Order::random}};
}

struct KernelTest : testing::TestWithParam<Case> {
  ~KernelTest() override { simt::set_order(Order::forward); }
};

TEST_P(KernelTest, EqualsTheFormulaInEveryOrder) {
  const Outcome first = run(GetParam(), Order::forward, true);
  for (const std::string& failure : first.failures) ADD_FAILURE() << failure;
  if (HasFailure()) return;
  for (const Again& again : repetitions()) {
    const Outcome other = run(GetParam(), again.order, false);
    for (const std::string& failure : other.failures) ADD_FAILURE() << again.what << ": " << failure;
    EXPECT_TRUE(other.bytes == first.bytes) << again.what << " gives other bytes";
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, KernelTest, testing::ValuesIn(all_cases()),
                         [](const auto& test) { return test.param.name; });

// Says how much ran, and that no entry of the table was left out.
class Coverage : public testing::Environment {
 public:
  void TearDown() override {
    const testing::UnitTest& tests = *testing::UnitTest::GetInstance();
    if (tests.test_to_run_count() < tests.total_test_count()) return;  // filtered
    const auto launches = simt::launches();
    size_t kernels = 0;
    for (const std::string entry : {"down", "output_grad", "input_grad", "rope", "cross_entropy", "cache_append",
                                    "decode_attention", "embedding", "dequantize", "adamw", "square_sum"}) {
      bool launched = false;
      for (const auto& [name, count] : launches) {
        if (name != entry && !name.starts_with(entry + ' ')) continue;
        std::printf("simt: %-24s launched %lld times\n", name.c_str(), static_cast<long long>(count));
        launched = true;
        ++kernels;
      }
      EXPECT_TRUE(launched) << entry;
    }
    std::printf("simt: %zu kernels x %zu cases\n", kernels, all_cases().size());
  }
};
const testing::Environment* const coverage = testing::AddGlobalTestEnvironment(new Coverage);

}  // namespace
