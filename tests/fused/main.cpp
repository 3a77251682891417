#include "fused/backend.h"

#include <gtest/gtest.h>

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  rankfold::testing::Kernels::use(true);
  return RUN_ALL_TESTS();
}
