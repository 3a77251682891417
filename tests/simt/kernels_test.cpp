// Every case of tests/kernels on fibers, in several orders of threads and blocks.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>

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

struct KernelTest : testing::TestWithParam<Case> {
  ~KernelTest() override { simt::set_order(Order::forward); }
};

TEST_P(KernelTest, EqualsTheFormulaInEveryOrder) {
  const Outcome forward = run(GetParam(), Order::forward, true);
  for (const std::string& failure : forward.failures) ADD_FAILURE() << failure;
  if (HasFailure()) return;
  for (const Order order : {Order::forward, Order::backward, Order::random}) {
    const Outcome again = run(GetParam(), order, false);
    for (const std::string& failure : again.failures) ADD_FAILURE() << failure;
    EXPECT_TRUE(again.bytes == forward.bytes) << (order == Order::forward    ? "a second run"
                                                  : order == Order::backward ? "backward order"
                                                                             : "random order")
                                              << " gives other bytes";
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, KernelTest, testing::ValuesIn(all_cases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
