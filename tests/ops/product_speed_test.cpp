#include "ops/product_speed.h"

#include <gtest/gtest.h>

namespace rankfold::ops {
namespace {

TEST(ProductSpeed, OnlyAClearLeadIsFollowed) {
  const auto prefers = [](double float32, double bfloat16) {
    return prefers_float32({.float32 = float32, .bfloat16 = bfloat16});
  };
  EXPECT_TRUE(prefers(336, 187));
  EXPECT_TRUE(prefers(111, 100));
  EXPECT_FALSE(prefers(109, 100));
  EXPECT_FALSE(prefers(100, 100));
  EXPECT_FALSE(prefers(150, 900));
}

TEST(ProductSpeed, IsMeasuredOnce) {
  const ProductSpeed& speed = product_speed();
  EXPECT_GT(speed.float32, 0);
  EXPECT_GT(speed.bfloat16, 0);
  EXPECT_EQ(&product_speed(), &speed);
}

}  // namespace
}  // namespace rankfold::ops
