// Rows of the log by name: the same text as ever for training's, and what else a row may hold is kept.
#include "train/log_row.h"

#include "core/json.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <limits>

namespace rankfold {
namespace {

const std::vector<Metric> kTraining = {{"peak_memory_bytes", int64_t{1} << 40},
                                       {"loss", 1.5},
                                       {"grad_norm", 0.25},
                                       {"tokens_per_second", 100.0},
                                       {"learning_rate", 1e-4}};

TEST(LogRows, OfTrainingHaveItsMembersAndTheOrderOfTheFiles) {
  const LogRow row = make_row(7, 0.5, kTraining);
  EXPECT_EQ(row.step, 7);
  EXPECT_EQ(row.epoch, 0.5);
  EXPECT_EQ(row.loss, 1.5);
  EXPECT_EQ(row.grad_norm, 0.25);
  EXPECT_EQ(row.learning_rate, 1e-4);
  EXPECT_EQ(row.tokens_per_second, 100);
  EXPECT_EQ(row.peak_memory_bytes, int64_t{1} << 40);
  EXPECT_EQ(log_line(row),
            "{\"step\":7,\"epoch\":0.5,\"loss\":1.5,\"grad_norm\":0.25,\"learning_rate\":0.0001,"
            "\"tokens_per_second\":100.0,\"peak_memory_bytes\":1099511627776}");
  EXPECT_EQ(repeatable_row_json(row).dump(),
            "{\"step\":7,\"epoch\":0.5,\"loss\":1.5,\"grad_norm\":0.25,\"learning_rate\":0.0001}");
}

TEST(LogRows, AreReadByNameAndKeepWhatIsNotOfTraining) {
  const std::vector<std::vector<Metric>> all = {
      kTraining, {{"eval_loss", 0.125}, {"accuracy", int64_t{1}}, {"eval_tokens_per_second", 3.5}}, {}};
  for (const auto& metrics : all) {
    const LogRow row = make_row(3, 2, metrics);
    const LogRow again = read_row(parse_json(log_line(row), "row"));
    EXPECT_EQ(again.step, 3);
    EXPECT_EQ(again.metrics, row.metrics);
    EXPECT_EQ(log_line(again), log_line(row));
    for (const Metric& metric : metrics) EXPECT_TRUE(again.metric(metric.name)) << metric.name;
  }
  const LogRow row = make_row(3, 2, all[1]);
  EXPECT_EQ(row.loss, 0);
  EXPECT_EQ(row.metric("eval_loss"), 0.125);
  EXPECT_EQ(row.metric("accuracy"), 1);
  EXPECT_FALSE(row.metric("loss"));
  EXPECT_EQ(repeatable_row_json(row).dump(), "{\"step\":3,\"epoch\":2.0,\"accuracy\":1,\"eval_loss\":0.125}");
}

TEST(LogRows, ANumberThatIsNotFiniteStaysUnknown) {
  const LogRow row = make_row(1, 1, {{"eval_loss", std::numeric_limits<double>::infinity()}});
  EXPECT_EQ(log_line(row), "{\"step\":1,\"epoch\":1.0,\"eval_loss\":null}");
  EXPECT_EQ(log_line(read_row(parse_json(log_line(row), "row"))), log_line(row));
}

TEST(LogRows, WhatIsNoRowIsRefused) {
  for (const char* text : {"{}", "[]", "3", "{\"step\":1}", "{\"step\":1,\"epoch\":1,\"loss\":\"low\"}"})
    EXPECT_THROW(read_row(parse_json(text, "row")), nlohmann::json::exception) << text;
}

}  // namespace
}  // namespace rankfold
