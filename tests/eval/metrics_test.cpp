// Measures of answers by cases worked by hand, the sign test by known values, terms from a list and mined ones.
#include "eval/answer_metrics.h"
#include "eval/compare.h"
#include "eval/sign_test.h"
#include "eval/terms.h"
#include "support/contains.h"
#include "support/stopwatch.h"
#include "support/temp_folder.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace rankfold {
namespace {

using Texts = std::vector<std::string>;

Texts words(const std::string& text) {
  Texts list;
  for (const TextWord& word : words_of(text)) {
    list.push_back(word.text);
    EXPECT_LT(word.begin, word.end);
    EXPECT_LE(word.end, text.size());
  }
  return list;
}

TEST(AnswerMetrics, Words) {
  EXPECT_EQ(words("It's 37.5 \xC2\xB0"
                  "C, not_high!"),
            (Texts{"it", "s", "37", "5", "°", "c", "not", "high"}));
  EXPECT_EQ(words("胸部X线，2型糖尿病。"), (Texts{"胸", "部", "x", "线", "2", "型", "糖", "尿", "病"}));
  EXPECT_EQ(words("カナ ΑΒ Straße"), (Texts{"カ", "ナ", "αβ", "straße"}));
  EXPECT_EQ(words("≥5 mg ± 1"), (Texts{"≥", "5", "mg", "±", "1"}));
  EXPECT_EQ(words(" .,+-<>\n"), Texts{});
}

TEST(AnswerMetrics, ExactMatch) {
  EXPECT_TRUE(exact_match("  a\n b ", "a b"));
  EXPECT_TRUE(exact_match("低血糖\xE3\x80\x80", "低血糖"));  // a space of Chinese width
  EXPECT_TRUE(exact_match("", " "));
  EXPECT_FALSE(exact_match("a b", "ab"));
  EXPECT_FALSE(exact_match("A", "a"));
  EXPECT_FALSE(exact_match("低血糖。", "低血糖"));
}

TEST(AnswerMetrics, CharF1) {
  EXPECT_DOUBLE_EQ(char_f1("低血糖", "低血糖。"), 1);              // punctuation does not count
  EXPECT_DOUBLE_EQ(char_f1("高血糖", "低血糖"), 2 * 2.0 / 6);      // 血, 糖 of 3 and 3
  EXPECT_DOUBLE_EQ(char_f1("aab", "abb"), 2 * 2.0 / 6);            // one a, one b
  EXPECT_DOUBLE_EQ(char_f1("The dose", "dose: 5"), 2 * 4.0 / 12);  // d, o, s, e of 7 and 5
  EXPECT_DOUBLE_EQ(char_f1("", "低"), 0);
  EXPECT_DOUBLE_EQ(char_f1("?", "!"), 1);
}

TEST(AnswerMetrics, RougeL) {
  EXPECT_DOUBLE_EQ(rouge_l("police killed the gunman", "police kill the gunman"), 2 * 3.0 / 8);
  EXPECT_DOUBLE_EQ(rouge_l("the gunman kill police", "police kill the gunman"), 2 * 2.0 / 8);
  EXPECT_DOUBLE_EQ(rouge_l("由结核杆菌引起", "结核由分枝杆菌感染引起"), 2 * 6.0 / 18);  // 结核杆菌引起
  EXPECT_DOUBLE_EQ(rouge_l("", "a"), 0);
  EXPECT_DOUBLE_EQ(rouge_l("b", "a"), 0);
}

// The textbook's table, on words across several blocks of 64.
int64_t slow_common(const Texts& a, const Texts& b) {
  std::vector<int64_t> row(b.size() + 1);
  for (const std::string& word : a) {
    int64_t diagonal = 0;
    for (size_t j = 0; j < b.size(); ++j) {
      const int64_t above = row[j + 1];
      row[j + 1] = word == b[j] ? diagonal + 1 : std::max(row[j], row[j + 1]);
      diagonal = above;
    }
  }
  return row.back();
}

TEST(AnswerMetrics, RougeLOfLongTextsIsTheTablesAndFast) {
  uint64_t state = 7;
  const auto text = [&state](size_t count, uint64_t kinds) {
    std::string all;
    for (size_t i = 0; i < count; ++i) {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      all += "w" + std::to_string((state >> 33) % kinds) + " ";
    }
    return all;
  };
  for (const auto& [a, b, kinds] : {std::tuple{63, 64, 2}, {64, 65, 5}, {200, 129, 3}, {129, 200, 40}, {1, 500, 9}}) {
    const std::string x = text(static_cast<size_t>(a), static_cast<uint64_t>(kinds)),
                      y = text(static_cast<size_t>(b), static_cast<uint64_t>(kinds));
    EXPECT_DOUBLE_EQ(rouge_l(x, y), 2.0 * static_cast<double>(slow_common(words(x), words(y))) / (a + b)) << a;
  }
  const std::string x = text(20000, 500), y = text(20000, 500);
  const testing::Stopwatch watch;
  EXPECT_GT(rouge_l(x, y), 0);
  EXPECT_LT(watch.seconds(), 3);  // measured: 0.1; the table takes 4 x 10^8 steps on words
}

// scipy.stats.binomtest(wins, wins + losses).pvalue
TEST(SignTest, KnownValues) {
  EXPECT_DOUBLE_EQ(sign_test(0, 0), 1);
  EXPECT_DOUBLE_EQ(sign_test(1, 0), 1);
  EXPECT_NEAR(sign_test(5, 0), 0.0625, 1e-15);
  EXPECT_NEAR(sign_test(8, 2), 0.109375, 1e-14);
  EXPECT_NEAR(sign_test(3, 17), 0.0025768280029296875, 1e-15);
  EXPECT_DOUBLE_EQ(sign_test(10, 10), 1);
  EXPECT_NEAR(sign_test(60, 40), 0.05688793364098089, 1e-14);
  EXPECT_NEAR(sign_test(1000, 900), 0.023108845108901193, 1e-12);
  EXPECT_GT(sign_test(500000, 500001), 0.99);
  EXPECT_EQ(sign_test(1000000, 0), 0);  // 2^-999999
}

TEST(Compare, OverfittingByTheRule) {
  for (const auto& [gap, expected] :
       {std::pair{-1.0, "low"}, {0.0, "low"}, {0.199, "low"}, {0.2, "medium"}, {0.599, "medium"}, {0.6, "high"}})
    EXPECT_EQ(text_of(overfitting_of(gap, 2)), std::string(expected)) << gap;
  EXPECT_EQ(overfitting_of(0, 0), Overfitting::kLow);
}

TEST(Compare, PairsGoByTermsWhereThereAreTerms) {
  const Question with{.text = "q", .reference = "abcd", .terms = {"ab", "cd"}},
      without{.text = "q", .reference = "abcd"};
  const auto model = [&](const Texts& answers) {
    ComparedModel m;
    for (size_t i = 0; i < answers.size(); ++i) m.each.push_back(scored(answers[i], i < 2 ? with : without));
    return m;
  };
  // the same share of terms though fewer characters; more terms; more characters
  const std::vector<ComparedModel> models{model({"ab", "abcd", "x"}), model({"abc", "cd", "ax"})};
  const ComparedPair pair = compare_answers(models, 0, 1);
  EXPECT_EQ(pair.ties, 1);
  EXPECT_EQ(pair.wins, 1);
  EXPECT_EQ(pair.losses, 1);
  EXPECT_DOUBLE_EQ(pair.p, 1);
  EXPECT_DOUBLE_EQ(*models[0].each[0].terms, 0.5);
  EXPECT_FALSE(models[0].each[2].terms);
}

TEST(Compare, KindsOfFolders) {
  const testing::TempFolder folder;
  folder.write("adapter/adapter_config.json", "{}");
  folder.write("adapter/config.json", "{}");  // of the base, as some trainers leave it there
  folder.write("model/config.json", "{}");
  folder.write("both/config.json", "{}");
  folder.write("both/model.safetensors", "");
  folder.write("both/adapter_config.json", "{}");
  folder.write("both/adapter_model.safetensors", "");
  folder.write("empty/x", "");
  EXPECT_EQ(kind_of_folder(folder / "adapter"), ModelKind::kAdapter);
  EXPECT_EQ(kind_of_folder(folder / "model"), ModelKind::kWhole);
  testing::expect_error<UserError>([&] { kind_of_folder(folder / "both"); }, "got both");
  testing::expect_error<UserError>([&] { kind_of_folder(folder / "empty"); }, "got a folder with neither");
  testing::expect_error<UserError>([&] { kind_of_folder(folder / "none"); }, "got nothing");
  testing::expect_error<UserError>([&] { kind_of_folder(folder / "empty/x"); }, "got a file");
}

TEST(TermLists, OfAFile) {
  const testing::TempFolder folder;
  folder.write("terms.txt", "\xEF\xBB\xBF降压药\r\n\n  aspirin \n降压药\nAspirin\n");
  EXPECT_EQ(read_terms(folder / "terms.txt"), (Texts{"降压药", "aspirin"}));
  folder.write("none.txt", "\n \n");
  testing::expect_error<UserError>([&] { read_terms(folder / "none.txt"); }, "none.txt: expected one term per line");
}

TEST(TermLists, WantedAreThoseOfTheAnswerThatTheQuestionDoesNotSay) {
  EXPECT_EQ(terms_wanted("高血压吃什么？", "高血压应服用长效降压药。", {"高血压", "降压药", "长效降压药", "胰岛素"}),
            Texts{"长效降压药"});
  EXPECT_EQ(terms_wanted("", "Aspirin", {"ASPIRIN"}), Texts{"ASPIRIN"});
}

TEST(TermLists, Mined) {
  Texts answers, general;
  for (const char* drug : {"青霉素", "头孢", "红霉素", "磺胺", "四环素"}) {
    answers.push_back(std::string(drug) + "可引起过敏性休克，需要就医。");
    answers.push_back("用" + std::string(drug) + "前须防过敏性休克发生。");
  }
  for (const char* thing : {"开会", "出门", "做饭", "跑步", "读书", "写字"})
    general.push_back(std::string(thing) + "前需要准备，需要就医的可引起注意，发生变化。");
  const Texts terms = mine_terms(answers, general);
  EXPECT_NE(std::find(terms.begin(), terms.end(), "过敏性休克"), terms.end());
  for (const char* none : {"需要", "需要就医", "过敏性", "敏性休克", "可引起", "发生", "克", "素"})
    EXPECT_EQ(std::find(terms.begin(), terms.end(), none), terms.end()) << none;
  const Texts english = mine_terms({"It causes lactic acidosis.", "Rarely, lactic acidosis occurs!", "He is well."},
                                   {"it causes", "rarely it occurs", "he is well"});
  EXPECT_EQ(english, Texts{"lactic acidosis"});
  EXPECT_EQ(mine_terms({"the same", "the same"}, {}), Texts{});  // one text
  // "The" is the base's "the"; a term keeps its first spelling.
  EXPECT_EQ(mine_terms({"The pH is low.", "The lung is ill, HbA1c is high.", "Was hba1c taken?"},
                       {"what is the", "is the", "the is", "now, is the"}),
            Texts{"HbA1c"});
}

}  // namespace
}  // namespace rankfold
