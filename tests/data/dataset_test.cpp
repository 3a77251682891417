#include "rankfold/dataset.h"

#include "rankfold/error.h"
#include "support/contains.h"
#include "support/temp_folder.h"
#include "support/tiny_tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

namespace rankfold {
namespace {

using testing::contains;
using testing::error_of;
using testing::kPieces;
using testing::TempFolder;
using testing::train_tokenizer;

using Ids = std::vector<int32_t>;

DataConfig at_most(int64_t max_length, const std::string& strategy = "truncate") {
  DataConfig config;
  config.max_length = max_length;
  config.truncation_strategy = strategy;
  return config;
}

class DatasetTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const TempFolder folder;
    train_tokenizer(folder.path(), kPieces);
    with_bos_ = std::make_unique<Tokenizer>(Tokenizer::open(folder.path(), true));
    without_bos_ = std::make_unique<Tokenizer>(Tokenizer::open(folder.path(), false));
  }
  static void TearDownTestSuite() { with_bos_.reset(), without_bos_.reset(); }

  Dataset open(const std::string& text, const DataConfig& config = {}, const Tokenizer* tokenizer = with_bos_.get(),
               int64_t vocab_size = kPieces) const {
    return Dataset::open(folder_.write("data.json", text), tokenizer, config, vocab_size);
  }
  template <class... Rest>
  std::string error(const std::string& text, const Rest&... rest) const {
    return error_of<UserError>([&] { open(text, rest...); });
  }

  static inline std::unique_ptr<Tokenizer> with_bos_, without_bos_;
  TempFolder folder_;
};

Ids operator+(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
Ids masked(size_t count) { return Ids(count, static_cast<int32_t>(kIgnoreIndex)); }

const std::string kRow = R"({"question": "What is aspirin?", "answer": "请先咨询医生。"})";

TEST_F(DatasetTest, LearnsTheAnswerAndItsEnd) {
  const Ids prompt = with_bos_->encode("What is aspirin?\n"), answer = with_bos_->encode("请先咨询医生。");
  const Dataset data = open(kRow);
  ASSERT_EQ(data.size(), 1);
  EXPECT_EQ(data[0].input_ids, Ids{1} + prompt + answer + Ids{2});
  EXPECT_EQ(data[0].labels, masked(1 + prompt.size()) + answer + Ids{2});

  const Dataset bare = open(kRow, {}, without_bos_.get());
  EXPECT_EQ(bare[0].input_ids, prompt + answer + Ids{2});
  EXPECT_EQ(bare[0].labels, masked(prompt.size()) + answer + Ids{2});
}

TEST_F(DatasetTest, LeavesBrokenRowsOutWhereAsked) {
  const std::string text = kRow + "\n{\"question\": \"a\", \"answer\": }\n{\"question\": \"b\"}\n" + kRow + "\n" +
                           R"({"input_ids": [5, 99999999]})" + "\n" + kRow + "\n{\"question\": \"cut of";
  EXPECT_TRUE(contains(error(text), "data.json:2:"));
  DataConfig config;
  config.skip_bad_rows = true;
  for (const bool cached : {false, true}) {
    if (cached) config.cache_dir = (folder_ / "cache").string();
    for (int again = 0; again < (cached ? 2 : 1); ++again) {
      const Dataset data = open(text, config);
      ASSERT_EQ(data.size(), 3);
      EXPECT_EQ(data.report().rows, 7);
      EXPECT_EQ(data.report().bad, 4);
      for (int64_t i = 0; i < 3; ++i) {
        EXPECT_EQ(data[i].input_ids, open(kRow)[0].input_ids);
        EXPECT_EQ(data.row_number(i), (Ids{1, 4, 6})[static_cast<size_t>(i)]);
      }
      if (again) continue;  // a cache has the count alone
      ASSERT_EQ(data.bad_rows().size(), 4u);
      for (size_t i = 0; i < 4; ++i)
        EXPECT_TRUE(contains(data.bad_rows()[i], "data.json:" + std::to_string((Ids{2, 3, 5, 7})[i])));
    }
  }
  config.cache_dir.clear();
  EXPECT_TRUE(contains(error("{\"question\": \"a\"}", config), "1 broken, the first of them: "));
}

TEST_F(DatasetTest, LeavesRowsOfOtherBytesOutWhereAsked) {
  const std::string bad = "{\"question\": \"\xE6(?\", \"answer\": \"a\"}";
  DataConfig config;
  config.skip_bad_rows = true;
  for (const bool is_array : {false, true}) {
    const std::string between = is_array ? ",\n" : "\n";
    const std::string text =
        (is_array ? "[" : "") + kRow + between + kRow + between + bad + between + kRow + (is_array ? "]" : "");
    EXPECT_TRUE(contains(error(text), "data.json:3: not UTF-8 (byte 15 of the line)"));
    const Dataset data = open(text, config);
    EXPECT_EQ(data.size(), 3);
    EXPECT_EQ(data.report().bad, 1);
    ASSERT_EQ(data.bad_rows().size(), 1u);
    EXPECT_TRUE(contains(data.bad_rows()[0], "data.json:3: not UTF-8 (byte 15 of the line)"));
  }
}

TEST_F(DatasetTest, ReportsWhatIsNotUsed) {
  const std::string text = R"({"question": "q", "context": "c", "answer": "says </s> and <s>", "id": 1})"
                           "\n"
                           R"({"question": "q </s>", "answer": "a", "id": 2, "note": ""})";
  DataConfig config;
  config.max_length = 5;
  for (const bool cached : {false, true}) {
    if (cached) config.cache_dir = (folder_ / "cache").string();
    for (int again = 0; again < (cached ? 2 : 1); ++again) {
      const Dataset data = open(text, config);
      const DatasetReport& report = data.report();
      std::map<std::string, int64_t> unused, spelled;
      for (const auto& [name, rows] : report.unused) unused[name] = rows;
      for (const auto& [name, rows] : report.spelled) spelled[name] = rows;
      EXPECT_EQ(unused, (std::map<std::string, int64_t>{{"context", 1}, {"id", 2}}));
      EXPECT_EQ(spelled, (std::map<std::string, int64_t>{{"<s>", 1}, {"</s>", 2}}));
      EXPECT_EQ(report.truncated, 2);
      int64_t all = 0;
      for (const Dataset& whole = open(text); const int64_t i : {0, 1}) all += whole.length(i);
      EXPECT_EQ(report.cut_tokens, all - 2 * 5);
    }
  }
  EXPECT_EQ(open(kRow).report().unused.size() + open(kRow).report().spelled.size(), 0u);
}

TEST_F(DatasetTest, TakesATemplateThatAModelWasTrainedWith) {
  DataConfig config;
  config.prompt_template = "{question}\\n{input}";
  EXPECT_TRUE(contains(error(kRow, config), "prompt_template: holds a backslash"));
  config.template_is_saved = true;
  EXPECT_EQ(open(kRow, config)[0].input_ids,
            Ids{1} + with_bos_->encode("What is aspirin?\\n{input}") + with_bos_->encode("请先咨询医生。") + Ids{2});
}

TEST_F(DatasetTest, StopsWhereAsked) {
  int polls = 0;
  EXPECT_THROW(
      Dataset::open(folder_.write("data.json", kRow), with_bos_.get(), {}, kPieces, [&] { return ++polls > 0; }),
      Stopped);
}

TEST_F(DatasetTest, LearnsThePromptWhereAsked) {
  DataConfig config;
  config.prompt_template = "Q: {question} A:";
  config.train_on_prompt = true;
  const Ids all = with_bos_->encode("Q: What is aspirin? A:") + with_bos_->encode("请先咨询医生。") + Ids{2};
  EXPECT_EQ(open(kRow, config)[0].labels, masked(1) + all);
  EXPECT_EQ(open(kRow, config, without_bos_.get())[0].labels, all);
}

TEST_F(DatasetTest, LearnsAWholeText) {
  const Ids text = with_bos_->encode("the <s> blood");
  for (const bool train_on_prompt : {false, true}) {
    DataConfig config;
    config.train_on_prompt = train_on_prompt;
    const Dataset data = open(R"({"text": "the <s> blood"})", config);
    EXPECT_EQ(data[0].input_ids, Ids{1} + text + Ids{2});
    EXPECT_EQ(data[0].labels, masked(1) + text + Ids{2});
  }
  EXPECT_EQ(open(R"({"text": "the <s> blood"})", {}, without_bos_.get())[0].labels, text + Ids{2});
}

TEST_F(DatasetTest, TakesReadyIdsAsTheyAre) {
  const Dataset data = open("{\"input_ids\": [5, 6]}\n{\"input_ids\": [7, 8], \"labels\": [-100, 8]}", {}, nullptr);
  EXPECT_EQ(data[0].input_ids, (Ids{5, 6}));
  EXPECT_EQ(data[0].labels, (Ids{5, 6}));
  EXPECT_EQ(data[1].labels, (Ids{-100, 8}));
  EXPECT_TRUE(contains(error(kRow, DataConfig{}, static_cast<const Tokenizer*>(nullptr)),
                       "data.json:1: a text needs a tokenizer"));
}

const std::string kThree = "{\"input_ids\": [1, 2, 3]}\n\n{\"input_ids\": [1, 2, 3, 4, 5]}\n{\"input_ids\": [4, 5]}";

TEST_F(DatasetTest, TruncatesDropsOrRefusesLongRows) {
  const Dataset cut = open(kThree, at_most(3));
  EXPECT_EQ(cut.size(), 3);
  EXPECT_EQ(cut[1].input_ids, (Ids{1, 2, 3}));
  EXPECT_EQ(cut[1].labels, (Ids{1, 2, 3}));
  EXPECT_EQ(cut.report().rows, 3);
  EXPECT_EQ(cut.report().truncated, 1);
  EXPECT_EQ(cut.report().dropped, 0);
  EXPECT_EQ(cut.report().longest, 5);

  const Dataset dropped = open(kThree, at_most(3, "drop"));
  EXPECT_EQ(dropped.size(), 2);
  EXPECT_EQ(dropped[1].input_ids, (Ids{4, 5}));
  EXPECT_EQ(dropped.report().dropped, 1);
  EXPECT_EQ(dropped.report().truncated, 0);
  EXPECT_EQ(dropped.report().longest, 5);

  EXPECT_TRUE(contains(error(kThree, at_most(3, "error")), "data.json:3: 5 tokens > max_length 3"));
  EXPECT_EQ(open(kThree, at_most(5, "error")).size(), 3);
}

TEST_F(DatasetTest, LeavesOutRowsWithoutLabels) {
  const std::string rows = R"([{"input_ids": [1, 2, 3], "labels": [-100, -100, 3]}, {"input_ids": [1, 2, 3]},
      {"input_ids": [1, 2], "labels": [1, -100]}, {"input_ids": [9]}])";
  const Dataset whole = open(rows);
  EXPECT_EQ(whole.size(), 2);  // the label of a first token predicts nothing
  EXPECT_EQ(whole.report().without_labels, 2);
  const Dataset cut = open(rows, at_most(2));
  EXPECT_EQ(cut.size(), 1);
  EXPECT_EQ(cut.report().without_labels, 3);
  EXPECT_EQ(cut.report().truncated, 2);
  EXPECT_TRUE(contains(error(rows, at_most(1)), "nothing is left of 4 rows"));
  EXPECT_TRUE(contains(error(kRow, at_most(3)), "1 without labels"));
  EXPECT_TRUE(contains(error(kRow, at_most(3, "drop")), "1 longer than max_length 3"));
}

TEST_F(DatasetTest, RefusesATokenizerLargerThanTheModel) {
  const std::string line = error("\n" + kRow, DataConfig{}, with_bos_.get(), 300);
  EXPECT_TRUE(contains(line, "data.json:2: token id "));
  EXPECT_TRUE(contains(line, "beyond the 300 rows of the embedding: the tokenizer is larger than the model"));
  EXPECT_TRUE(
      contains(error("{\"input_ids\": [1, 400]}", DataConfig{}, with_bos_.get(), 300), "rows of the embedding"));
}

TEST_F(DatasetTest, ReportsTheFirstOfSeveralBrokenRows) {
  std::string text;
  for (int i = 0; i < 3000; ++i)
    text += i == 1234 || i == 1240 || i >= 2000 ? "{\"question\": 5, \"answer\": \"a\"}\n" : kRow + "\n";
  for (int round = 0; round < 5; ++round)
    EXPECT_TRUE(contains(error(text), "data.json:1235: question: expected a text, got 5"));
}

TEST_F(DatasetTest, ChecksItsConfig) {
  EXPECT_TRUE(contains(error(kRow, at_most(0)), "max_length"));
  EXPECT_TRUE(contains(error(kRow, at_most(5, "cut")), "truncation_strategy"));
  DataConfig config;
  config.prompt_template = "none";
  EXPECT_TRUE(contains(error(kRow, config), "prompt_template"));
  config = {};
  config.columns = {{"anwser", "x"}};
  EXPECT_TRUE(contains(error(kRow, config), "did you mean 'answer'?"));
  EXPECT_THROW(open(kRow, {}, with_bos_.get(), 0), std::invalid_argument);
}

TEST_F(DatasetTest, KeepsTheFilesOrderOverManyThreads) {
  std::string text;
  for (int i = 0; i < 5000; ++i)
    text += "{\"input_ids\": [" + std::to_string(i % 499) + ", " + std::to_string(i / 499) + "]}\n";
  const Dataset data = open(text);
  ASSERT_EQ(data.size(), 5000);
  for (int64_t i = 0; i < 5000; ++i) ASSERT_EQ(data[i].input_ids, (Ids{int32_t(i % 499), int32_t(i / 499)}));
}

TEST_F(DatasetTest, FingerprintSeesEveryIdLabelAndBoundary) {
  std::set<uint64_t> seen;
  const std::vector<std::string> variants = {
      "{\"input_ids\": [1, 2, 3, 4]}",
      "{\"input_ids\": [1, 2, 4, 3]}",
      "{\"input_ids\": [1, 2, 3, 4], \"labels\": [-100, 2, 3, 4]}",
      "{\"input_ids\": [1, 2]}\n{\"input_ids\": [3, 4]}",
      "{\"input_ids\": [3, 4]}\n{\"input_ids\": [1, 2]}",
  };
  for (const std::string& text : variants) seen.insert(open(text).fingerprint());
  EXPECT_EQ(seen.size(), variants.size());
  EXPECT_EQ(open("[" + variants[0] + "]").fingerprint(), open(variants[0]).fingerprint());
}

// Checkpoints hold it: with another definition no run of before could be resumed.
TEST_F(DatasetTest, FingerprintIsTheSameEverywhere) {
  EXPECT_EQ(open("{\"input_ids\": [5, 6, 7]}\n{\"input_ids\": [8, 9], \"labels\": [-100, 9]}").fingerprint(),
            0xF3DD87C9B89EC7CFu);
}

TEST_F(DatasetTest, MakesBatches) {
  const Dataset data = open(kThree);
  const Batches batches = data.batches({2, 42, 0, false});
  ASSERT_EQ(batches.size(), 2);
  EXPECT_EQ(batches[0].samples, (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(batches[0].offsets, (std::vector<int64_t>{0, 3, 8}));
  EXPECT_EQ(batches[0].label_count(), 6);
  EXPECT_EQ(batches[0].step, 0);
  EXPECT_EQ(batches[1].samples, std::vector<int64_t>{2});
  EXPECT_EQ(batches[1].rows(), 1);
  EXPECT_EQ(batches[1].step, 1);
  EXPECT_EQ(batches[1].first_row, 0);
  const auto order = epoch_order(3, 9, 4, true);
  EXPECT_EQ(data.batches({3, 9, 4, true})[0].samples, order);
  int64_t step = 0;
  for (const Batch& batch : data.batches({1, 42, 0, false})) {
    EXPECT_EQ(batch.step, step);
    EXPECT_EQ(batch.samples, std::vector<int64_t>{step++});
  }
  EXPECT_EQ(step, 3);
  EXPECT_THROW(batches[2], std::invalid_argument);
  EXPECT_THROW(data.batches({0, 9, 4, true}), std::invalid_argument);
  EXPECT_THROW(data.batch({3}), std::invalid_argument);
  EXPECT_THROW(data[-1], std::invalid_argument);
  EXPECT_EQ(data.length(1), 5);
  EXPECT_THROW(data.length(3), std::invalid_argument);
}

TEST_F(DatasetTest, HoldsRowsOut) {
  std::string lines;
  for (int i = 3; i < 23; ++i) lines += "{\"input_ids\": [1, " + std::to_string(i) + "]}\n";
  const Dataset all = open(lines);
  const auto [training, held_out] = all.hold_out(0.11, 42);  // of 20 rows: rounded up
  EXPECT_EQ(training.size(), 17);
  EXPECT_EQ(held_out.size(), 3);
  std::vector<int64_t> rows;
  for (const Dataset* part : {&training, &held_out})
    for (int64_t i = 0; i < part->size(); ++i) {
      EXPECT_EQ((*part)[i].input_ids, all[part->row_number(i) - 1].input_ids);
      EXPECT_EQ(part->length(i), 2);
      if (i > 0) {
        EXPECT_LT(part->row_number(i - 1), part->row_number(i));
      }
      rows.push_back(part->row_number(i));
    }
  std::sort(rows.begin(), rows.end());
  for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(rows[i], static_cast<int64_t>(i) + 1);
  EXPECT_EQ(held_out.batch({2}).samples, std::vector<int64_t>{2});

  EXPECT_EQ(all.hold_out(3, 42).second.fingerprint(), held_out.fingerprint());
  EXPECT_NE(all.hold_out(3, 43).second.fingerprint(), held_out.fingerprint());
  EXPECT_NE(training.fingerprint(), held_out.fingerprint());
  EXPECT_NE(training.fingerprint(), all.fingerprint());
  const Dataset twice = training.hold_out(16, 1).first;  // of a part
  EXPECT_EQ(twice[0].input_ids, all[twice.row_number(0) - 1].input_ids);
  EXPECT_THROW(all.hold_out(20, 42), UserError);
  EXPECT_THROW(all.hold_out(0, 42), UserError);
  EXPECT_THROW(all.hold_out(1.5, 42), UserError);
  EXPECT_THROW(held_out[3], std::invalid_argument);
}

// Which rows are held out is part of a run: the same on every machine.
TEST_F(DatasetTest, HoldsTheSameRowsOutEverywhere) {
  std::string lines;
  for (int i = 0; i < 10; ++i) lines += "{\"input_ids\": [1, 2]}\n";
  const Dataset held_out = open(lines).hold_out(3, 42).second;
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < held_out.size(); ++i) rows.push_back(held_out.row_number(i));
  EXPECT_EQ(rows, (std::vector<int64_t>{2, 9, 10}));
}

// Dropout draws by the step: no two batches of a run may share one.
TEST_F(DatasetTest, StepsCountOnFromEpochToEpoch) {
  const Dataset data = open(kThree);
  std::vector<int64_t> steps;
  for (int64_t epoch = 0; epoch < 3; ++epoch)
    for (const Batch& batch : data.batches({.rows = 2, .epoch = epoch})) steps.push_back(batch.step);
  EXPECT_EQ(steps, (std::vector<int64_t>{0, 1, 2, 3, 4, 5}));
  EXPECT_THROW(data.batches({.epoch = -1}), std::invalid_argument);
}

TEST(EpochOrder, IsAPermutationOfSeedAndEpoch) {
  const auto order = epoch_order(1000, 42, 0, true);
  EXPECT_EQ(order, epoch_order(1000, 42, 0, true));
  EXPECT_NE(order, epoch_order(1000, 42, 1, true));
  EXPECT_NE(order, epoch_order(1000, 43, 0, true));
  EXPECT_NE(epoch_order(1000, 42, 1, true), epoch_order(1000, 43, 0, true));
  auto sorted = order;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(sorted, epoch_order(1000, 42, 0, false));
  EXPECT_EQ(epoch_order(3, 1, 5, false), (std::vector<int64_t>{0, 1, 2}));
  EXPECT_TRUE(epoch_order(0, 1, 0, true).empty());
}

// A run that is resumed on another machine must see this order: the figures are the contract.
TEST(EpochOrder, IsTheSameEverywhere) {
  EXPECT_EQ(epoch_order(10, 42, 0, true), (std::vector<int64_t>{5, 1, 9, 6, 7, 2, 4, 0, 8, 3}));
}

TEST(EpochOrder, ReachesEveryPermutationEvenly) {
  std::map<std::vector<int64_t>, int> counts;
  constexpr int kRounds = 24000;
  for (int epoch = 0; epoch < kRounds; ++epoch) ++counts[epoch_order(4, 7, epoch, true)];
  EXPECT_EQ(counts.size(), 24u);
  double chi_squared = 0;
  for (const auto& [order, count] : counts) chi_squared += (count - 1000.0) * (count - 1000.0) / 1000.0;
  EXPECT_LT(chi_squared, 53.5);  // 23 degrees of freedom: p = 3e-4
}

}  // namespace
}  // namespace rankfold
