#include "train/schedule.h"

#include "rankfold/error.h"
#include "support/contains.h"
#include "support/temp_folder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>

namespace rankfold {
namespace {

TrainConfig config_of(const std::string& type, double warmup_steps, double warmup_ratio = 0) {
  TrainConfig config;
  config.learning_rate = 2;
  config.lr_scheduler_type = type;
  config.warmup_steps = warmup_steps;
  config.warmup_ratio = warmup_ratio;
  return config;
}

TEST(Schedule, Linear) {
  const TrainConfig config = config_of("linear", 4);
  EXPECT_EQ(learning_rate(config, 0, 14), 0);
  EXPECT_EQ(learning_rate(config, 2, 14), 1);
  EXPECT_EQ(learning_rate(config, 4, 14), 2);
  EXPECT_EQ(learning_rate(config, 9, 14), 1);
  EXPECT_EQ(learning_rate(config, 14, 14), 0);
}
TEST(Schedule, Cosine) {
  const TrainConfig config = config_of("cosine", 0);
  EXPECT_EQ(learning_rate(config, 0, 10), 2);
  EXPECT_NEAR(learning_rate(config, 5, 10), 1, 1e-12);
  EXPECT_NEAR(learning_rate(config, 2, 10), 1 + std::cos(std::numbers::pi * 0.2), 1e-12);
}
TEST(Schedule, ConstantIgnoresWarmUpAndItsBrotherDoesNot) {
  EXPECT_EQ(learning_rate(config_of("constant", 4), 0, 10), 2);
  EXPECT_EQ(learning_rate(config_of("constant_with_warmup", 4), 1, 10), 0.5);
  EXPECT_EQ(learning_rate(config_of("constant_with_warmup", 4), 9, 10), 2);
}
TEST(Schedule, WarmUpAsRatioRoundsUp) {
  EXPECT_EQ(learning_rate(config_of("linear", 0, 0.1), 1, 25), 2.0 / 3);  // ceil(2.5) = 3 steps
  EXPECT_EQ(learning_rate(config_of("linear", 0.1), 1, 25), 2.0 / 3);     // transformers 5: below 1 a ratio
}
TEST(Schedule, StepsAreCountedAsTheTrainerDoes) {
  TrainConfig config;
  config.per_device_train_batch_size = 4;
  config.gradient_accumulation_steps = 4;
  config.num_train_epochs = 3;
  EXPECT_EQ(StepPlan(100, config).steps_per_epoch, 7);  // 25 batches, the last window is shorter
  EXPECT_EQ(StepPlan(100, config).total_steps, 21);
  config.num_train_epochs = 0.5;
  EXPECT_EQ(StepPlan(100, config).total_steps, 4);
  config.max_steps = 5;
  EXPECT_EQ(StepPlan(100, config).total_steps, 5);
}

TEST(Schedule, MoreStepsThanCanBeCountedAreRefused) {
  TrainConfig config;
  config.num_train_epochs = 1e300;
  EXPECT_TRUE(
      testing::contains(testing::error_of<UserError>([&] { StepPlan(10, config); }),
                        "num_train_epochs: expected at most 9007199254740992 optimizer steps in all, got 2e+300"));
  config.max_steps = std::numeric_limits<int64_t>::max();
  EXPECT_TRUE(
      testing::contains(testing::error_of<UserError>([&] { StepPlan(10, config); }), "max_steps: expected at most"));
  config.max_steps = int64_t{1} << 53;
  EXPECT_EQ(StepPlan(10, config).total_steps, config.max_steps);
}

}  // namespace
}  // namespace rankfold
