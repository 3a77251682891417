// Loss, generation and term scores on models and texts that are not as they should be.
#include "rankfold/rankfold.h"

#include "eval/terms.h"
#include "support/contains.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <limits>

namespace rankfold {
namespace {

using nlohmann::json;
using testing::contains;
using testing::error_of;
using testing::kVocabulary;
using testing::TempFolder;

class Eval : public ::testing::Test {
 protected:
  Eval() {
    testing::write_tiny_model(folder_ / "model", {.vocabulary = kVocabulary});
    testing::write_tiny_rows(folder_ / "rows.jsonl", 11, kVocabulary);
  }
  CausalLM model() const { return CausalLM::load(folder_ / "model", {.device = "cpu"}); }
  Dataset rows() const { return Dataset::open(folder_ / "rows.jsonl", nullptr, {.max_length = 64}, kVocabulary); }
  void poison_head() const {
    const TensorFile file = TensorFile::open(folder_ / "model/model.safetensors");
    std::vector<std::pair<std::string, at::Tensor>> tensors;
    for (const TensorInfo& info : file.tensors()) {
      tensors.emplace_back(info.name, file.tensor(info.name).clone());
      if (info.name == "lm_head.weight") tensors.back().second.fill_(std::numeric_limits<float>::quiet_NaN());
    }
    write_tensor_file(folder_ / "model/model.safetensors", tensors);
  }
  TempFolder folder_;
};

TEST_F(Eval, LossDoesNotDependOnTheBatch) {
  const CausalLM m = model();
  const double one = evaluate(m, rows(), 1).loss;
  for (int64_t batch : {2, 3, 8, 100}) EXPECT_NEAR(evaluate(m, rows(), batch).loss, one, 1e-5 * one) << batch;
}

TEST_F(Eval, ALossThatIsNoNumberIsSaid) {
  poison_head();
  EXPECT_TRUE(contains(error_of<Error>([&] { evaluate(model(), rows()); }), "model: the loss is not a finite number"));
}

TEST_F(Eval, GenerationEndsWhateverTheModelSays) {
  const CausalLM m = model();
  const std::vector<std::vector<int32_t>> prompts{{5}, {1, 2, 3, 4, 5, 6, 7, 8, 9}, {95, 95}};
  for (const GenerateConfig& config :
       {GenerateConfig{.max_new_tokens = 1}, GenerateConfig{.max_new_tokens = 40, .temperature = 1e6},
        GenerateConfig{.max_new_tokens = 40, .temperature = 1e-30},
        GenerateConfig{.max_new_tokens = 9, .temperature = 1, .top_p = 1e-9},
        GenerateConfig{.max_new_tokens = 9, .temperature = 1, .top_k = 1000000}}) {
    const auto completions = generate(m, prompts, config);
    ASSERT_EQ(completions.size(), prompts.size());
    for (const auto& ids : completions) {
      EXPECT_LE(static_cast<int64_t>(ids.size()), config.max_new_tokens);
      for (int32_t id : ids) EXPECT_TRUE(id >= 0 && id < kVocabulary) << id;
    }
  }
}

TEST_F(Eval, SettingsAreChecked) {
  const CausalLM m = model();
  const auto expect = [&](const std::string& line, const GenerateConfig& config) {
    testing::expect_error<UserError>([&] { generate(m, {{5}}, config); }, line);
  };
  expect("max_new_tokens: expected an integer above 0, got 0", {.max_new_tokens = 0});
  expect("temperature: expected a number of 0 or more, got -1", {.temperature = -1});
  expect("temperature: expected a number of 0 or more, got nan", {.temperature = std::nan("")});
  expect("top_p: expected a number in (0, 1], got 0", {.top_p = 0});
  expect("top_k: expected an integer of 0 or more, got -1", {.top_k = -1});
  expect("seed: expected an integer of 0 or more, got -1", {.seed = -1});
  for (const int64_t count : {0, -1})
    testing::expect_error<UserError>([&] { evaluate(m, rows(), count); }, "rows_per_batch: expected an integer");
  const int64_t most = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(evaluate(m, rows(), most).loss, evaluate(m, rows(), rows().size()).loss);
}

TEST_F(Eval, WhatLibtorchThrowsIsAnErrorOfOurs) {
  const CausalLM m = model();
  Batch batch = rows().batch({0});
  batch.tokens = batch.tokens.to(at::kFloat);  // no program of ours makes such a batch
  for (const bool scored : {true, false}) try {
      scored ? m.loss(batch) : m.logits(batch);
      ADD_FAILURE() << "computed";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kDefect);
      EXPECT_THROW(std::rethrow_if_nested(error), c10::Error);
    }
  struct Mine {};
  EXPECT_THROW(generate(m, {{5, 6}}, {.max_new_tokens = 3}, [](int64_t, int32_t) { throw Mine(); }), Mine);
}

// Asked before every batch and every token, and obeyed at once.
TEST_F(Eval, StopsWhenAsked) {
  const CausalLM m = model();
  for (int64_t batches = 0; batches < 4; ++batches) {
    int64_t asked = 0;
    EXPECT_THROW(evaluate(m, rows(), 3, [&] { return asked++ == batches; }), Stopped);
    EXPECT_EQ(asked, batches + 1);
  }
  int64_t asked = 0, made = 0;
  const auto count = [&](int64_t, int32_t) { ++made; };
  EXPECT_THROW(
      generate(m, {{5, 6}, {7}}, {.max_new_tokens = 1000, .temperature = 1e6}, count, [&] { return asked++ == 3; }),
      Stopped);
  EXPECT_EQ(asked, 4);
  EXPECT_LE(made, 6);
  EXPECT_GE(made, 3);
  const auto never = [] { return false; };
  EXPECT_EQ(evaluate(m, rows(), 3, never).loss, evaluate(m, rows(), 3).loss);
  EXPECT_EQ(generate(m, {{5, 6}}, {.max_new_tokens = 4}, {}, never), generate(m, {{5, 6}}, {.max_new_tokens = 4}));
}

TEST_F(Eval, ATokenBeyondTheVocabularyIsRefused) {
  const CausalLM m = model();
  for (const int64_t id : {kVocabulary, int64_t{-1}, int64_t{1} << 30})
    EXPECT_ANY_THROW(generate(m, {{5, static_cast<int32_t>(id)}}, {.max_new_tokens = 2})) << id;
}

TEST_F(Eval, GenerationOfNanEndsToo) {
  poison_head();
  for (double temperature : {0.0, 1.0}) {
    try {
      for (const auto& ids : generate(model(), {{5, 6}}, {.max_new_tokens = 5, .temperature = temperature}))
        for (int32_t id : ids) EXPECT_TRUE(id >= 0 && id < kVocabulary) << id;
    } catch (const Error& error) {
      EXPECT_TRUE(contains(error.what(), "finite"));
    }
  }
}

TEST(Terms, OfARow) {
  EXPECT_EQ(row_terms(json{{"terms", "a"}}, "terms", "x"), std::vector<std::string>{"a"});
  EXPECT_EQ(row_terms(json{{"terms", {"a", "b"}}}, "terms", "x"), (std::vector<std::string>{"a", "b"}));
  for (const json& bad :
       {json(), json(1), json(""), json::array({""}), json::array({"a", 1}), json::object(), json::array()})
    EXPECT_TRUE(contains(error_of<UserError>([&] {
                           row_terms(json{{"terms", bad}}, "terms", "file:7");
                         }),
                         "file:7"))
        << bad;
  EXPECT_TRUE(contains(error_of<UserError>([] { row_terms(json::object(), "terms", "file:7"); }), "file:7"));
}

TEST(Terms, InAText) {
  EXPECT_EQ(terms_found("Metformin lowers glucose", {"metformin", "GLUCOSE", "insulin"}),
            (std::vector<std::string>{"metformin", "GLUCOSE"}));
  EXPECT_EQ(terms_found("", {"a"}), std::vector<std::string>());
  EXPECT_EQ(terms_found("二甲双胍", {"双胍", "胰岛素"}), std::vector<std::string>{"双胍"});
  EXPECT_EQ(terms_found("\xFF\xFE", {"\xFF"}), std::vector<std::string>{"\xFF"});
}

// A cache of keys and values computes what the whole text at once does: attention rounds where training does. Products
// of one row and of many may be summed in another order: ids may differ where two logits are the same but for that.
TEST_F(Eval, GreedyIdsAreThoseOfTheLogits) {
  constexpr int64_t kNew = 24, kSeeds = 6;
  for (const auto& [dtype, tie] : {std::pair("float32", 0x1p-20), std::pair("bfloat16", 0x1p-7)}) {
    int64_t same = 0, all = 0;
    for (int64_t seed = 1; seed <= kSeeds; ++seed) {
      const std::string name = std::string(dtype) + std::to_string(seed);
      testing::write_tiny_model(folder_ / name, {.hidden = 64, .dtype = dtype}, seed);
      const CausalLM m = CausalLM::load(folder_ / name, {.device = "cpu", .dtype = dtype});
      std::vector<int32_t> text{5, 17, static_cast<int32_t>(30 + seed), 8};
      std::vector<int32_t> generated = generate(m, {text}, {.max_new_tokens = kNew}).at(0);
      if (static_cast<int64_t>(generated.size()) < kNew) generated.push_back(2);  // the model's eos
      const at::NoGradGuard no_grad;
      for (int32_t id : generated) {
        const at::Tensor logits = m.logits(make_batch({{&text, nullptr}}))[-1].to(at::kFloat);
        const float largest = logits.max().item<float>(), taken = logits[id].item<float>();
        EXPECT_GE(taken, largest - tie * std::abs(largest)) << name << ", token " << text.size();
        same += taken == largest, ++all;
        text.push_back(id);
      }
    }
    EXPECT_GE(same, all - all / 50) << dtype;
  }
}

}  // namespace
}  // namespace rankfold
