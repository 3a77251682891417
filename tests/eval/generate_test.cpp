// Which token is chosen, where a text ends, and many rows through few slots.
#include "eval/sampler.h"
#include "eval/text_stream.h"
#include "rankfold/rankfold.h"
#include "support/contains.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"
#include "support/tiny_tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

namespace rankfold {
namespace {

using testing::TempFolder;

// ---- The sampler

std::vector<float> uneven_logits(size_t count) {
  std::vector<float> logits(count);
  for (size_t i = 0; i < count; ++i) logits[i] = 4 * std::sin(static_cast<float>(i * i % 997));
  return logits;
}

std::map<int32_t, double> kept_by(const GenerateConfig& config, std::vector<float> logits,
                                  const std::vector<int32_t>& prompt = {}) {
  Sampler sampler(config, 0, prompt);
  const Sampler::Kept kept = sampler.keep(logits);
  std::map<int32_t, double> shares;
  for (size_t i = 0; i < kept.ids.size(); ++i) shares[kept.ids[i]] = kept.weights[i] / kept.sum;
  EXPECT_TRUE(std::is_sorted(kept.ids.begin(), kept.ids.end()));
  return shares;
}

// transformers' rules, by sorting all.
std::map<int32_t, double> kept_by_sorting(const GenerateConfig& config, const std::vector<float>& logits) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  size_t kept = ids.size();
  if (config.top_k > 0 && static_cast<size_t>(config.top_k) < kept) {
    kept = static_cast<size_t>(config.top_k);
    while (kept < ids.size() && logits[ids[kept]] == logits[ids[kept - 1]]) ++kept;
  }
  const auto weight = [&](size_t i) { return std::exp((logits[ids[i]] - logits[ids[0]]) / config.temperature); };
  double total = 0, reached = 0;
  for (size_t i = 0; i < kept; ++i) total += weight(i);
  for (size_t i = 0; i < kept; ++i)
    if ((reached += weight(i)) >= config.top_p * total) kept = i + 1;
  while (weight(kept - 1) < config.min_p) --kept;
  std::map<int32_t, double> shares;
  for (size_t i = 0; i < kept; ++i) shares[ids[i]] = weight(i);
  total = 0;
  for (const auto& [id, share] : shares) total += share;
  for (auto& [id, share] : shares) share /= total;
  return shares;
}

TEST(Sampling, KeepsWhatSortingKeeps) {
  for (const size_t count : {size_t{1}, size_t{7}, size_t{5000}}) {
    const std::vector<float> logits = uneven_logits(count);
    for (const double temperature : {0.3, 1.0, 3.0})
      for (const int64_t top_k : {0, 1, 5, 1500, 100000})
        for (const double top_p : {1.0, 0.9, 0.31, 1e-6})
          for (const double min_p : {0.0, 0.2, 1.0}) {
            const GenerateConfig config{.temperature = temperature, .top_p = top_p, .top_k = top_k, .min_p = min_p};
            const auto ours = kept_by(config, logits), theirs = kept_by_sorting(config, logits);
            const std::string what = "of " + std::to_string(count) + ": " + std::to_string(temperature) + ", top_k " +
                                     std::to_string(top_k) + ", top_p " + std::to_string(top_p) + ", min_p " +
                                     std::to_string(min_p);
            ASSERT_EQ(ours.size(), theirs.size()) << what;
            for (const auto& [id, share] : theirs) {
              ASSERT_TRUE(ours.contains(id)) << what << ": " << id;
              ASSERT_NEAR(ours.at(id), share, 1e-5 * share + 1e-12) << what << ": " << id;
            }
          }
  }
}

TEST(Sampling, AShareOfNearlyAllKeepsAll) {
  // The same weights added in another order may have a smaller sum than this share of theirs.
  for (size_t count = 1; count < 300; ++count) {
    const GenerateConfig config{.temperature = 0.3, .top_p = std::nextafter(1.0, 0.0)};
    EXPECT_NEAR(static_cast<double>(kept_by(config, uneven_logits(count)).size()), static_cast<double>(count), 1);
  }
}

TEST(Sampling, EqualLogits) {
  const std::vector<float> logits{1, 3, 3, 2, 3, 3};
  // transformers keeps all that are as likely as the last of top_k; of top_p it keeps as many as are needed.
  EXPECT_EQ(kept_by({.temperature = 1, .top_k = 2}, logits).size(), 4);
  const auto half = kept_by({.temperature = 1, .top_p = 0.5}, {2, 2, 2, 2});
  EXPECT_EQ(half.size(), 2);
  EXPECT_TRUE(half.contains(0) && half.contains(1));
  EXPECT_EQ(kept_by({.temperature = 1, .min_p = 1}, logits).size(), 4);
}

TEST(Sampling, RepetitionCosts) {
  const std::vector<float> logits{2, -2, 4, 1};
  const auto shares = kept_by({.temperature = 1, .repetition_penalty = 2}, logits, {0, 1, 1});
  const double total = std::exp(1) + std::exp(-4) + std::exp(4) + std::exp(1);
  EXPECT_NEAR(shares.at(0), std::exp(1) / total, 1e-6);
  EXPECT_NEAR(shares.at(1), std::exp(-4) / total, 1e-6);
  // What was chosen is repeated from then on.
  const GenerateConfig greedy{.repetition_penalty = 3};
  Sampler sampler(greedy, 0, {});
  std::vector<int32_t> chosen;
  for (int i = 0; i < 3; ++i) {
    std::vector<float> row = logits;
    chosen.push_back(sampler.choose(row).id);
  }
  EXPECT_EQ(chosen, (std::vector<int32_t>{2, 0, 2}));  // 4; then 4/3 < 2; then 2/3 < 4/3
  for (const double penalty : {1e-38, 1e38}) {
    const GenerateConfig extreme{.repetition_penalty = penalty};
    std::vector<float> row = logits;
    const int32_t id = Sampler(extreme, 0, {0, 1, 2, 3}).choose(row).id;
    EXPECT_TRUE(id >= 0 && id < 4) << id;
  }
}

TEST(Sampling, DrawsByTheShares) {
  const GenerateConfig config{.temperature = 1, .top_k = 3, .seed = 5};
  const std::vector<float> logits{0, std::log(2.f), -3, std::log(5.f)};
  Sampler sampler(config, 0, {});
  std::vector<int> counts(4);
  constexpr int kDraws = 40000;
  for (int i = 0; i < kDraws; ++i) {
    std::vector<float> row = logits;
    ++counts[sampler.choose(row).id];
  }
  EXPECT_EQ(counts[2], 0);
  const double shares[] = {1 / 8., 2 / 8., 0, 5 / 8.};
  for (int id : {0, 1, 3}) {
    const double spread = std::sqrt(shares[id] * (1 - shares[id]) / kDraws);
    EXPECT_NEAR(counts[id] / double{kDraws}, shares[id], 5 * spread) << id;
  }
}

TEST(Sampling, LogProbabilitiesAreTheModels) {
  const std::vector<float> logits{1, 4, 2};
  const double log_sum = std::log(std::exp(1) + std::exp(4) + std::exp(2));
  for (const double temperature : {0.0, 0.01})
    for (const double penalty : {1.5, 1e-38}) {
      const GenerateConfig config{.temperature = temperature, .repetition_penalty = penalty, .log_probabilities = true};
      std::vector<float> row = logits;
      const Choice choice = Sampler(config, 0, {1}).choose(row);
      EXPECT_EQ(choice.id, 1);
      EXPECT_NEAR(choice.log_probability, 4 - log_sum, 1e-5) << penalty;
    }
}

TEST(Sampling, WhatIsNotFiniteIsRefused) {
  for (const float bad : {std::nanf(""), INFINITY, -INFINITY})
    for (const size_t place : {0, 3, 40}) {
      std::vector<float> row = uneven_logits(41);
      row[place] = bad;
      const GenerateConfig config;
      EXPECT_THROW(Sampler(config, 0, {}).choose(row), std::domain_error) << bad << " at " << place;
    }
}

// ---- Texts that end a completion

class StopTexts : public ::testing::Test {
 protected:
  StopTexts() {
    testing::write_tiny_model(folder_ / "model", {.vocabulary = testing::kPieces});
    testing::train_tokenizer(folder_ / "model");
  }
  TempFolder folder_;
};

TEST_F(StopTexts, AreFoundAcrossTokens) {
  const Tokenizer tokenizer = Tokenizer::open(folder_ / "model", true);
  const std::string text = "It lowers the sugar in the blood. 多喝水,多休息 貓 aab";  // 貓: no piece, but three bytes
  const std::vector<int32_t> ids = tokenizer.encode(text);
  for (const auto& [stops, end] :
       std::vector<std::pair<std::vector<std::string>, size_t>>{{{"sugar"}, text.find("sugar")},
                                                                {{"s the s"}, text.find("s the s")},
                                                                {{"喝水"}, text.find("喝水")},
                                                                {{"貓"}, text.find("貓")},
                                                                {{"blood. 多", "ugar"}, text.find("ugar")},
                                                                {{"in the blond"}, text.size()},
                                                                {{"ab"}, text.size() - 2},
                                                                {{"b", "abc"}, text.find('b')},
                                                                {{"I"}, 0},
                                                                {{"aaab"}, text.size()},
                                                                {{}, text.size()}}) {
    TextStream stream(tokenizer.vocabulary(), stops);
    std::string shown;
    size_t used = 0;
    while (used < ids.size() && !stream.is_stopped()) shown += stream.push(ids[used++]);
    shown += stream.finish();
    EXPECT_EQ(stream.text(), text.substr(0, end)) << ::testing::PrintToString(stops);
    EXPECT_EQ(shown, stream.text());
    EXPECT_EQ(stream.is_stopped(), end < text.size());
    const std::vector<int32_t> within(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(stream.ids_within()));
    EXPECT_TRUE(stream.text().starts_with(tokenizer.decode(within))) << ::testing::PrintToString(stops);
  }
}

TEST_F(StopTexts, EndACompletion) {
  const CausalLM m = CausalLM::load(folder_ / "model", {.device = "cpu"});
  const std::vector<std::vector<int32_t>> prompts{m.tokenizer().encode("What is"), m.tokenizer().encode("高血压")};
  GenerateConfig config{.max_new_tokens = 40, .temperature = 3, .log_probabilities = true};
  const std::vector<Completion> free = complete(m, prompts, config);
  for (size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_EQ(free[i].text, m.tokenizer().decode(free[i].ids));
    EXPECT_EQ(free[i].log_probabilities.size(), free[i].ids.size());
    ASSERT_GT(free[i].text.size(), 12);
    // From the middle of the text, at the border of characters.
    size_t begin = free[i].text.size() / 2;
    while ((free[i].text[begin] & 0xC0) == 0x80) ++begin;
    size_t end = std::min(begin + 3, free[i].text.size());
    while (end < free[i].text.size() && (free[i].text[end] & 0xC0) == 0x80) ++end;
    config.stop = {free[i].text.substr(begin, end - begin)};
    const Completion cut = complete(m, {prompts[i]}, config)[0];
    EXPECT_EQ(cut.text, free[i].text.substr(0, free[i].text.find(config.stop[0])));
    EXPECT_EQ(cut.reason, FinishReason::kStop);
    EXPECT_LT(cut.ids.size(), free[i].ids.size());
    EXPECT_EQ(cut.log_probabilities.size(), cut.ids.size());
    EXPECT_TRUE(std::equal(cut.ids.begin(), cut.ids.end(), free[i].ids.begin()));
    config.stop = {};
  }
}

// ---- Many rows

class Rows : public ::testing::Test {
 protected:
  Rows() {
    testing::write_tiny_model(folder_ / "model", {.vocabulary = testing::kVocabulary});
    for (int32_t i = 0; i < 13; ++i) {
      prompts_.emplace_back();
      for (int32_t t = 0; t <= i * 7 % 11; ++t) prompts_.back().push_back(3 + (i * 31 + t * 17) % 90);
    }
  }
  CausalLM model() const { return CausalLM::load(folder_ / "model", {.device = "cpu"}); }
  TempFolder folder_;
  std::vector<std::vector<int32_t>> prompts_;
};

TEST_F(Rows, AreIndependentOfTheirNeighbours) {
  const CausalLM m = model();
  for (const double temperature : {0.0, 1.5}) {
    GenerateConfig config{.max_new_tokens = 30, .temperature = temperature, .batch_size = 1};
    const auto alone = generate(m, prompts_, config);
    for (const int64_t batch_size : {2, 5, 13, 100}) {
      config.batch_size = batch_size;
      EXPECT_EQ(generate(m, prompts_, config), alone) << batch_size << " at a time, temperature " << temperature;
    }
    EXPECT_EQ(generate(m, {prompts_[6]}, config)[0], alone[6]);
  }
}

// Beyond the 256 new tokens that the cache has room for at first.
TEST_F(Rows, MayOutgrowTheirCache) {
  folder_.write("model/generation_config.json", R"({"eos_token_id": []})");
  const CausalLM m = model();
  const std::vector<int32_t> ids = generate(m, {prompts_[3], prompts_[4]}, {.max_new_tokens = 290})[0];
  ASSERT_EQ(ids.size(), 290);
  std::vector<int32_t> begun = prompts_[3];
  begun.insert(begun.end(), ids.begin(), ids.begin() + 250);
  const std::vector<int32_t> rest = generate(m, {begun}, {.max_new_tokens = 40})[0];
  EXPECT_TRUE(std::equal(rest.begin(), rest.end(), ids.begin() + 250, ids.end()));
}

TEST_F(Rows, TheNextOneStartsAsSoonAsOneEnds) {
  const CausalLM m = model();
  std::vector<int64_t> order;
  const auto follow = [&](const TokenEvent& event) {
    order.push_back(event.completion);
    return event.completion == 0 ? Reply::kEndRow : Reply::kGoOn;
  };
  const auto all = complete(m, {{5}, {6}, {7}}, {.max_new_tokens = 4, .temperature = 1e6, .batch_size = 2}, follow);
  EXPECT_EQ(all[0].reason, FinishReason::kCancelled);
  EXPECT_EQ(all[0].ids.size(), 1);
  EXPECT_LE(std::find(order.begin(), order.end(), 2) - order.begin(), 3) << "it waited for the longest";
}

TEST_F(Rows, AnswersMayBeCancelled) {
  const CausalLM m = model();
  int64_t events = 0;
  const auto all = complete(m, prompts_, {.max_new_tokens = 50, .temperature = 1e6, .batch_size = 3},
                            [&](const TokenEvent&) { return ++events == 7 ? Reply::kEndAll : Reply::kGoOn; });
  ASSERT_EQ(all.size(), prompts_.size());
  EXPECT_EQ(events, 7);
  size_t tokens = 0;
  for (const Completion& one : all) tokens += one.ids.size();
  EXPECT_EQ(tokens, 7);
  EXPECT_EQ(all.back().reason, FinishReason::kCancelled);
}

TEST_F(Rows, SamplesOfAPromptDiffer) {
  const CausalLM m = model();
  GenerateConfig config{.max_new_tokens = 12, .temperature = 2, .num_return_sequences = 3};
  const auto all = complete(m, {prompts_[0], prompts_[1]}, config);
  ASSERT_EQ(all.size(), 6);
  for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i].prompt, static_cast<int64_t>(i / 3));
  EXPECT_NE(all[0].ids, all[1].ids);
  EXPECT_NE(all[1].ids, all[2].ids);
  for (const int64_t batch_size : {1, 2, 4}) {  // whether samples share the computation of their prompt or not
    config.batch_size = batch_size;
    const auto again = complete(m, {prompts_[0], prompts_[1]}, config);
    for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(again[i].ids, all[i].ids) << batch_size << " at a time: " << i;
  }
  config.num_return_sequences = 1;
  EXPECT_EQ(complete(m, {prompts_[1]}, config)[0].ids, all[3].ids) << "the first sample is that of one alone";
  for (const int64_t count : {int64_t{-1}, int64_t{0}, int64_t{1} << 62})
    EXPECT_THROW(complete(m, {{5}}, {.temperature = 1, .num_return_sequences = count}), std::invalid_argument) << count;
  config = {.num_return_sequences = 2};
  testing::expect_error<UserError>([&] { complete(m, {{5}}, config); },
                                   "num_return_sequences: expected 1 at temperature 0, where all samples are the same, "
                                   "got 2");
}

TEST_F(Rows, NoPromptIsNoCompletion) {
  EXPECT_TRUE(complete(model(), {}, {}).empty());
  EXPECT_THROW(complete(model(), {{5}, {}}, {}), std::invalid_argument);
  testing::expect_error<UserError>(
      [&] { complete(model(), {{5}}, {.stop = {"x"}}); },
      "stop: expected a model with a tokenizer, got none in " + (folder_ / "model").string());
  testing::expect_error<UserError>([&] { complete(model(), {{5}}, {.stop = {""}}); },
                                   "stop: expected a list of texts, got [\"\"]");
}

}  // namespace
}  // namespace rankfold
