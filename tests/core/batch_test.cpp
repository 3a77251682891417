#include "rankfold/batch.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace rankfold {
namespace {

using Ids = std::vector<int32_t>;

std::vector<int64_t> values(const at::Tensor& x) {
  const int64_t* data = x.const_data_ptr<int64_t>();
  return {data, data + x.numel()};
}

TEST(Batch, LaysRowsEndToEndAndShiftsLabelsWithinEach) {
  const Ids a = {1, 5, 6, 2}, a_labels = {-100, -100, 6, 2}, b = {1, 7}, b_labels = {1, 7};
  const Batch batch = make_batch({{&a, &a_labels}, {&b, &b_labels}});
  EXPECT_EQ(values(batch.tokens), (std::vector<int64_t>{1, 5, 6, 2, 1, 7}));
  EXPECT_EQ(values(batch.labels), (std::vector<int64_t>{-100, 6, 2, -100, 7, -100}));
  EXPECT_EQ(values(batch.positions), (std::vector<int64_t>{0, 1, 2, 3, 0, 1}));
  EXPECT_EQ(batch.offsets, (std::vector<int64_t>{0, 4, 6}));
  EXPECT_EQ(batch.rows(), 2);
  EXPECT_EQ(batch.token_count(), 6);
  EXPECT_EQ(batch.label_count(), 3);
}

TEST(Batch, NoLabelsCountWithoutLabels) {
  const Ids one = {3}, two = {4, 5};
  const Batch batch = make_batch({{&one, nullptr}, {&two, nullptr}});
  EXPECT_EQ(values(batch.labels), (std::vector<int64_t>{-100, -100, -100}));
  EXPECT_EQ(batch.label_count(), 0);
}

TEST(Batch, AnEmptyOneCountsNothing) {
  EXPECT_EQ(Batch().label_count(), 0);
  EXPECT_EQ(Batch().token_count(), 0);
}

TEST(Batch, RefusesEmptyAndUnevenRows) {
  const Ids empty, one = {1}, two = {1, 2};
  EXPECT_THROW(make_batch({}), std::invalid_argument);
  EXPECT_THROW(make_batch({{nullptr, nullptr}}), std::invalid_argument);
  EXPECT_THROW(make_batch({{&one, nullptr}, {&empty, nullptr}}), std::invalid_argument);
  EXPECT_THROW(make_batch({{&two, &one}}), std::invalid_argument);
}

}  // namespace
}  // namespace rankfold
