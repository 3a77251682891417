// Every case of tests/kernels on a device, twice: the second run must give the same bytes. Exit code 77 without a
// device.
#include <gtest/gtest.h>

#include <cstdio>

#include "gpu/cuda_machine.h"
#include "kernels/cases.h"

namespace rankfold::kernels::testing {

void PrintTo(const Case& kernel_case, std::ostream* out) { *out << kernel_case.name; }

}  // namespace rankfold::kernels::testing

namespace {

using namespace rankfold::kernels::testing;
using rankfold::kernels::Table;

struct KernelTest : testing::TestWithParam<Case> {
  std::vector<std::byte> run(bool checks) {
    static const Table table = rankfold::kernels::table_of_kernels();
    static const std::unique_ptr<Machine> machine = cuda_machine();
    Context context(*machine, table, GetParam().name, checks);
    GetParam().run(context);
    for (const std::string& failure : context.failures()) ADD_FAILURE() << failure;
    return context.bytes();
  }
};

TEST_P(KernelTest, EqualsTheFormulaTwice) {
  const std::vector<std::byte> first = run(true);
  EXPECT_TRUE(run(false) == first) << "a second run gives other bytes";
}

INSTANTIATE_TEST_SUITE_P(Cases, KernelTest, testing::ValuesIn(all_cases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const std::string why = testing::GTEST_FLAG(list_tests) ? "" : why_no_device();
  if (!why.empty()) {
    std::printf("gpu_tests: skipped: %s\n", why.c_str());
    return 77;
  }
  return RUN_ALL_TESTS();
}
