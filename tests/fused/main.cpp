// fused_tests [--device=cuda]: without a device the kernels run on fibers. Exit code 77: the device is not there.
#include "fused/backend.h"
#include "fused/fake_cuda.h"
#include "ops/open_cuda.h"
#include "ops/support.h"
#include "rankfold/error.h"

#include <gtest/gtest.h>

#include <iostream>
#include <string_view>

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (argc == 2 && std::string_view(argv[1]) == "--device=cuda") {
    try {
      rankfold::test_device = rankfold::ops::open_device("cuda");
    } catch (const rankfold::Error& error) {
      std::cout << "fused_tests: skipped: " << error.what() << "\n";
      return 77;
    }
    rankfold::testing::Kernels::on_cuda = rankfold::on_tensor_cores = true;
  } else {
    rankfold::testing::install_fake_cuda();
    rankfold::ops::use_backend(c10::DeviceType::CUDA, &rankfold::testing::host_backend());
    rankfold::test_device = at::Device(at::kCUDA, 0);
  }
  return RUN_ALL_TESTS();
}
