// Every check of lora-data on rows of every layout.
#include "clean/check.h"
#include "clean/report.h"
#include "support/contains.h"
#include "support/temp_folder.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

namespace rankfold {
namespace {

using nlohmann::json;
using testing::contains;
using testing::error_of;
using testing::TempFolder;

class CheckTest : public ::testing::Test {
 protected:
  void open(const std::string& text, const std::string& heldout = "") {
    DataFiles files(folder_.write("rows.jsonl", text).string());
    rows_ = RowSet(files);
    training_ = rows_.size();
    if (!heldout.empty()) rows_.add(DataFiles(folder_.write("heldout.jsonl", heldout).string()));
  }
  CheckResult check(const std::string& text, const std::string& heldout = "") {
    open(text, heldout);
    checker_ = std::make_unique<Checker>(config_, rows_, training_);
    return checker_->run();
  }
  // The rows, from 1, with their other one: "2 of 1", or "3".
  static std::string found(const CheckResult& result, RowFinding finding) {
    std::string list;
    for (const FoundRow& row : result.list) {
      if (row.finding != finding) continue;
      list += (list.empty() ? "" : ", ") + std::to_string(row.row + 1);
      if (row.other != TextMap::kNone) list += " of " + std::to_string(row.other + 1);
    }
    return list;
  }
  static std::string row(const std::string& question, const std::string& answer) {
    return json{{"question", question}, {"answer", answer}}.dump() + "\n";
  }

  TempFolder folder_;
  CheckConfig config_;
  RowSet rows_;
  uint32_t training_ = 0;
  std::unique_ptr<Checker> checker_;
};

TEST_F(CheckTest, NothingIsFoundInSoundRows) {
  const CheckResult result = check(row("高血压怎么治？", "限盐减重，服用降压药。") + row("What is 1?", "It is one."));
  EXPECT_TRUE(result.list.empty());
  EXPECT_EQ(result.rows, 2);
  EXPECT_EQ(finding_lines({*checker_, result, training_}), std::vector<std::string>{"nothing found in 2 rows"});
}

TEST_F(CheckTest, ExactDuplicatesInEveryLayout) {
  const CheckResult result =
      check(row("怎么治？", "吃药,休息") +
            R"({"answer": "吃药，休息", "id": 7, "question": "怎么治?  "})"
            "\n" +
            R"({"instruction": "怎么治？", "input": "", "output": "吃药,休息"})"
            "\n" +
            R"({"messages": [{"role": "user", "content": "怎么治？"}, {"role": "assistant", "content": "吃药,休息"}]})"
            "\n" +
            R"({"conversations": [{"from": "human", "value": "怎么治？"}, {"from": "gpt", "value": "吃药,休息"}]})"
            "\n" +
            R"({"prompt": "怎么治？", "completion": "吃药,休息"})"
            "\n" +
            R"({"text": "吃药,休息"})"
            "\n" +
            R"({"text": "吃药， 休息"})"
            "\n" +
            R"({"input_ids": [1, 2], "labels": [1, 2]})"
            "\n" +
            R"({"labels": [1, 2], "input_ids": [1, 2]})"
            "\n" +
            R"({"input_ids": [1, 2, 3]})"
            "\n" +
            R"({"system": "你是医生", "question": "怎么治？", "answer": "吃药,休息"})"
            "\n");
  EXPECT_EQ(found(result, RowFinding::kExactDuplicate), "2 of 1, 3 of 1, 4 of 1, 5 of 1, 6 of 1, 10 of 9");
  EXPECT_EQ(result.count(RowFinding::kBadRow), 0);
  // Row 8 differs by a space after the comma, which near duplicates do not see.
  EXPECT_EQ(found(result, RowFinding::kNearDuplicate).substr(0, 6), "8 of 7");
}

TEST_F(CheckTest, LongTurnsAndToolsDistinguishRows) {
  const auto chat = [](const std::string& first, const std::string& arguments) {
    return json{{"messages",
                 {{{"role", "user"}, {"content", first}},
                  {{"role", "assistant"},
                   {"content", "答"},
                   {"tool_calls", {{{"function", {{"arguments", arguments}}}}}}},
                  {{"role", "tool"}, {"content", "结果"}},
                  {{"role", "assistant"}, {"content", "好的"}}}}}
               .dump() +
           "\n";
  };
  const CheckResult result = check(chat("一", "{}") + chat("一", "{\"a\":1}") + chat("二", "{}") + chat("一", "{}"));
  EXPECT_EQ(found(result, RowFinding::kExactDuplicate), "4 of 1");
  EXPECT_EQ(result.count(RowFinding::kConflict), 0);
}

TEST_F(CheckTest, NearDuplicatesAreThoseOfAKeptRow) {
  std::mt19937 random(3);
  std::string base;
  for (int i = 0; i < 120; ++i) base += std::string(1, static_cast<char>('a' + random() % 26));
  const auto changed = [&](std::vector<size_t> places) {
    std::string text = base;
    for (const size_t place : places) text[place] = '#';
    return row("q", text);
  };
  const CheckResult result = check(row("q", base) + changed({60}) + changed({60, 61}) + changed({5, 30, 60, 90, 110}) +
                                   row("another", "which has nothing in common"));
  EXPECT_EQ(found(result, RowFinding::kNearDuplicate), "2 of 1, 3 of 1");
  for (const FoundRow& found : result.list) EXPECT_TRUE(found.finding == RowFinding::kConflict || found.jaccard > 0.8f);
  config_.near_threshold = 0.5;
  EXPECT_EQ(found(check(row("q", base) + changed({5, 30, 60, 90, 110})), RowFinding::kNearDuplicate), "2 of 1");
  config_.near_duplicates = false;
  EXPECT_EQ(check(row("q", base) + changed({60})).count(RowFinding::kNearDuplicate), 0);
}

TEST_F(CheckTest, ASharedSystemTextOrInstructionMakesNoNearDuplicates) {
  const std::string common(2000, 'x');
  const CheckResult result =
      check(json{{"system", common}, {"question", "高血压怎么治"}, {"answer", "吃药"}}.dump() + "\n" +
            json{{"system", common}, {"question", "感冒要注意什么"}, {"answer", "休息"}}.dump() + "\n" +
            json{{"instruction", common}, {"input", "第一段文字"}, {"output", "一"}}.dump() + "\n" +
            json{{"instruction", common}, {"input", "这是另外一段"}, {"output", "二"}}.dump() + "\n");
  EXPECT_EQ(found(result, RowFinding::kNearDuplicate), "");
}

TEST_F(CheckTest, Conflicts) {
  const CheckResult result =
      check(row("怎么治", "吃药") + row("怎么治 ", "休息") + row("怎么治", "吃药") + row("怎么办", "休息") +
            R"({"system": "s", "question": "怎么治", "answer": "别的"})"
            "\n");
  EXPECT_EQ(found(result, RowFinding::kConflict), "2 of 1");
  EXPECT_EQ(found(result, RowFinding::kExactDuplicate), "3 of 1");
}

TEST_F(CheckTest, EmptyAndShortAnswers) {
  const CheckResult lines =
      check(row("a?", "") + row("b?", " \u3000\n") + row("c?", "是") + row("d?", "好的") +
            R"({"question": "e", "answer": null})"
            "\n" +
            R"({"messages": [{"role": "user", "content": "f"}]})"
            "\n" +
            R"({"messages": [{"role": "user", "content": "g"}, {"role": "assistant", "content": ""}]})"
            "\n" +
            R"({"messages": [{"role": "user", "content": "h"}, )"
            R"({"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look"}}]}]})"
            "\n");
  EXPECT_EQ(found(lines, RowFinding::kEmptyAnswer), "1, 2, 5, 6, 7");
  EXPECT_EQ(found(lines, RowFinding::kShortAnswer), "3");
  EXPECT_EQ(lines.count(RowFinding::kBadRow), 0);
  EXPECT_EQ(lines.count(RowFinding::kExactDuplicate), 0) << "rows without an answer are not compared";
  config_.min_answer_length = 0;
  EXPECT_EQ(check(row("c?", "是")).count(RowFinding::kShortAnswer), 0);
}

// An empty answer is a reason of its own only where it is all that is wrong: the rest can be left in by --remove ''.
TEST_F(CheckTest, WhatIsRefusedForMoreThanAnEmptyAnswerIsABadRow) {
  const CheckResult result = check(R"({"messages": "call me"})"
                                   "\n"
                                   R"({"messages": []})"
                                   "\n"
                                   R"({"messages": [{"role": "user", "content": "a"}], "tools": "no json"})"
                                   "\n"
                                   R"({"question": "a", "answer": "", "tools": "no json"})"
                                   "\n"
                                   R"({"question": 5, "answer": ""})"
                                   "\n"
                                   R"({"question": "a", "answer": "", "tools": [], "history": [["b", "c"]]})"
                                   "\n"
                                   R"({"text": ""})"
                                   "\n"
                                   R"({"prompt": "a", "completion": [{"role": "assistant"}, 5]})"
                                   "\n");
  EXPECT_EQ(found(result, RowFinding::kBadRow), "1, 2, 3, 4, 5, 8");
  EXPECT_EQ(found(result, RowFinding::kEmptyAnswer), "6, 7");
}

TEST_F(CheckTest, AnswersInQuestions) {
  const CheckResult result =
      check(row("请重复：应当限盐减重", "应当限盐减重") + row("是甲还是乙？", "乙") +
            row("What is aspirin used for?", "aspirin") + row("Say: take two tablets", "take two tablets"));
  EXPECT_EQ(found(result, RowFinding::kAnswerInQuestion), "1, 4");
}

TEST_F(CheckTest, BrokenCharacters) {
  const CheckResult result =
      check(row("a\x01", "good answer") + row("b", "half \xEF\xBF\xBD way") + row("c", "icon \xEE\x80\x81 x") +
            row("é¢å¤è´", "ä¸\xC2\xADæ–‡ç—…") + row("fine\ttab", "new\nline"));
  EXPECT_EQ(found(result, RowFinding::kControl), "1");
  EXPECT_EQ(found(result, RowFinding::kReplacement), "2");
  EXPECT_EQ(found(result, RowFinding::kPrivateUse), "3");
  EXPECT_EQ(found(result, RowFinding::kMojibake), "4");
}

TEST_F(CheckTest, BadRowsAreNamedAndTheOthersRead) {
  const CheckResult result = check(
      "{\"question\": \"a\", \"answer\": \"an answer\"}\n{\"question\": }\n[1]\n{\"q\": 1}\n"
      "{\"question\": 5, \"answer\": \"x\"}\n{\"question\": \"b\", \"answer\": \"an answer\"}\n");
  EXPECT_EQ(found(result, RowFinding::kBadRow), "2, 3, 4, 5");
  EXPECT_EQ(result.rows, 6);
  const std::vector<std::string> lines = finding_lines({*checker_, result, training_});
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_TRUE(contains(lines[0], "bad_rows: 4 of 6 rows cannot be read as rows; "));
  EXPECT_TRUE(contains(lines[0], "rows.jsonl:2:14: syntax error"));
}

TEST_F(CheckTest, EncodingsRowByRow) {
  // 高血压怎么治 in GBK.
  const std::string gbk =
      "{\"question\": \"\xB8\xDF\xD1\xAA\xD1\xB9\xD4\xF5\xC3\xB4\xD6\xCE\", \"answer\": "
      "\"\xB3\xD4\xD2\xA9\xB0\xC9\"}\n";
  const std::string text = "\xEF\xBB\xBF" + row("a", "an answer") + gbk +
                           "{\"question\": \"\xFF\xFE\", \"answer\": \"x\"}\n" + row("高血压怎么治", "吃药吧");
  const CheckResult result = check(text);
  EXPECT_EQ(found(result, RowFinding::kWrongEncoding), "2, 3");
  EXPECT_EQ(result.gbk_rows, 1);
  EXPECT_TRUE(contains(report_text({*checker_, result, training_}, 5), "begins with a byte order mark"));
  EXPECT_TRUE(contains(report_text({*checker_, result, training_}, 5), "高血压怎么治"));
  config_.decode_gbk = true;
  const CheckResult decoded = check(text);
  EXPECT_EQ(found(decoded, RowFinding::kWrongEncoding), "3");
  EXPECT_EQ(found(decoded, RowFinding::kExactDuplicate), "4 of 2");
  // The second byte of a character may be a backslash: 誠 is D5\.
  EXPECT_EQ(
      check("{\"question\": \"\xD5\\\", \"answer\": \"\xB3\xD4\xD2\xA9\xB0\xC9\xB3\xD4\xD2\xA9\"}\n" + row("b", "cc"))
          .rows,
      2);
}

TEST_F(CheckTest, RowsThatAreHeldOut) {
  const std::string text =
      row("高血压怎么治", "限盐减重，长期服用降压药") + row("感冒怎么办", "多喝水") + row("糖尿病吃什么", "少吃糖");
  std::mt19937 random(4);
  std::string base;
  for (int i = 0; i < 100; ++i) base += static_cast<char>('a' + random() % 26);
  const CheckResult result =
      check(text + row("q", base + "."), row("高血压怎么治？", "限盐减重，长期服用降压药") +
                                             row("高血压怎么治", "限盐减重，长期服用降压药") +
                                             row("感冒怎么办", "休息") + row("感冒怎么办", "睡觉") + row("q", base) +
                                             row("新的问题", "新的答案") + "{}\n");
  EXPECT_EQ(found(result, RowFinding::kHeldOutExact), "1 of 6");
  EXPECT_EQ(found(result, RowFinding::kHeldOutQuestion), "2 of 7, 4 of 9");
  EXPECT_EQ(result.heldout_rows, 7);
  EXPECT_EQ(result.heldout_bad_rows, 1);
  EXPECT_EQ(result.leaked_rows, 4);  // not the first, which ends in a question mark, the new one and the bad one
  EXPECT_EQ(result.rows, 4);
}

TEST_F(CheckTest, HeldOutRowsThatAreNotComparedAreTold) {
  const std::string text = row("a?", "an answer");
  const CheckResult result = check(text, row("b?", "an answer") + "{\"question\": 5}\n[1]\n" + row("c?", ""));
  EXPECT_EQ(result.heldout_bad_rows, 2);
  EXPECT_EQ(result.heldout_empty_rows, 1);
  const ReportOf report{*checker_, result, training_};
  std::string lines;
  for (const std::string& line : finding_lines(report)) lines += line + "\n";
  for (const std::string& told : {report_text(report, 5), lines}) {
    EXPECT_TRUE(contains(told, "2 of 4 held-out rows cannot be read and were not compared; the first: " +
                                   (folder_ / "heldout.jsonl").string() + ":2: expected "));
    EXPECT_TRUE(contains(told, "1 of 4 held-out rows has no answer and was not compared; the first: " +
                                   (folder_ / "heldout.jsonl").string() + ":4: answer: is empty\n"));
  }
  EXPECT_TRUE(contains(error_of<UserError>([&] { check(text, "{\"question\": 13912345678}\n" + row("c?", "")); }),
                       "heldout.jsonl: none of 2 held-out rows can be compared: 1 cannot be read, 1 has no answer; the "
                       "first: " +
                           (folder_ / "heldout.jsonl").string() + ":1: expected "));
  EXPECT_EQ(check(text, row("b?", "an answer")).heldout_bad_rows, 0);
}

TEST_F(CheckTest, HeldOutRowsThatAreMuchAlike) {
  std::mt19937 random(4);
  std::string base;
  for (int i = 0; i < 100; ++i) base += static_cast<char>('a' + random() % 26);
  const CheckResult result = check(row("one question", base + "x"), row("another question", base));
  EXPECT_EQ(found(result, RowFinding::kHeldOutNear), "1 of 2");
  EXPECT_EQ(result.leaked_rows, 1);
  // Known from a row that is equal to one of them, and much like the other.
  const CheckResult of_two = check(row("one question", base), row("one question", base) + row("a third", base + "x"));
  EXPECT_EQ(found(of_two, RowFinding::kHeldOutExact), "1 of 2");
  EXPECT_EQ(of_two.leaked_rows, 2);
}

TEST_F(CheckTest, HeldOutRowsOfTheSameFile) {
  open(row("a", "first answer") + row("a", "first answer") + row("b", "second answer"));
  Checker checker(config_, rows_, training_, [](uint32_t row) { return row == 0; });
  const CheckResult result = checker.run();
  EXPECT_EQ(result.rows, 2);
  EXPECT_EQ(found(result, RowFinding::kHeldOutExact), "2 of 1");
  EXPECT_EQ(result.count(RowFinding::kExactDuplicate), 0);
}

TEST_F(CheckTest, PersonalDataIsToldAndNeverShown) {
  const CheckResult result =
      check(row("我的手机13912345678", "好的，11010519491231002X") + row("邮箱a@b.com", "卡6222021234567890128"));
  EXPECT_EQ(found(result, RowFinding::kPersonal), "1, 2");
  EXPECT_EQ(result.personal, (std::array<int64_t, kPersonalKinds>{1, 1, 1, 1}));
  EXPECT_EQ(result.masked, (std::array<int64_t, kPersonalKinds>{}));
  const std::filesystem::path report = folder_ / "report.json";
  write_report({*checker_, result, training_}, report);
  const std::string texts[] = {report_text({*checker_, result, training_}, 5), testing::read_bytes(report)};
  for (const std::string& text : texts)
    for (const char* secret : {"13912345678", "11010519491231002X", "a@b.com", "6222021234567890128"})
      EXPECT_EQ(text.find(secret), std::string::npos) << text;
}

TEST_F(CheckTest, BrokenRowsDoNotShowPersonalDataEither) {
  const std::string gbk =
      "{\"question\": \"\xB8\xDF\xD1\xAA\xD1\xB9\xD4\xF5\xC3\xB4 13912345678\", \"answer\": \"x\"}\n";
  const CheckResult result = check("{\"question\": 13912345678 11010519491231002X}\n" + gbk +
                                   "{\"question\": \"\xFF 13912345678\"}\n" + "{\"13912345678\": 1}\n");
  const std::filesystem::path report = folder_ / "report.json";
  write_report({*checker_, result, training_}, report);
  const std::string text = report_text({*checker_, result, training_}, 5) + testing::read_bytes(report);
  EXPECT_EQ(text.find("13912345678"), std::string::npos) << text;
  EXPECT_EQ(text.find("11010519491231002X"), std::string::npos) << text;
}

// Wherever a complaint that quotes a value cuts it.
TEST_F(CheckTest, ACutQuotationShowsNoPartOfPersonalData) {
  std::string rows;
  for (int before = 0; before < 90; ++before)
    for (const char* secret : {" 11010519491231002X, ", " zhang.wei.1987@example.com, "})
      rows +=
          nlohmann::json{{"instruction", "q"}, {"output", {std::string(before, 'x') + secret + std::string(90, 'y')}}}
              .dump() +
          "\n";
  const CheckResult result = check(rows);
  EXPECT_EQ(result.count(RowFinding::kBadRow), 180);
  const std::string text = report_text({*checker_, result, training_}, 200);
  EXPECT_EQ(text.find("11010"), std::string::npos) << text.substr(text.find("11010"), 40);
  EXPECT_EQ(text.find("1987@"), std::string::npos) << text.substr(text.find("1987@"), 40);
}

TEST_F(CheckTest, TheReportHasTheKeysOfTheContract) {
  const CheckResult result = check(row("a", "an answer") + row("a", "an answer") + row("b", ""));
  const std::filesystem::path path = folder_ / "report.json";
  write_report({*checker_, result, training_}, path);
  const json report = json::parse(testing::read_bytes(path));
  EXPECT_EQ(report.at("rows"), 3);
  EXPECT_EQ(report.at("exact_duplicates"), 1);
  EXPECT_EQ(report.at("near_duplicates"), 0);
  EXPECT_EQ(report.at("masked"), (json{{"id", 0}, {"mobile", 0}, {"email", 0}, {"bankcard", 0}}));
  for (const RowFinding finding : {RowFinding::kBadRow, RowFinding::kWrongEncoding, RowFinding::kEmptyAnswer,
                                   RowFinding::kConflict, RowFinding::kMojibake})
    EXPECT_TRUE(report.contains(word_of(finding).word)) << word_of(finding).word;
  ASSERT_EQ(report.at("findings").size(), 2u);
  const json& duplicate = report.at("findings")[0];
  EXPECT_EQ(duplicate.at("finding"), "exact_duplicates");
  EXPECT_EQ(duplicate.at("row"), 2);
  EXPECT_EQ(duplicate.at("line"), 2);
  EXPECT_EQ(duplicate.at("other_row"), 1);
  EXPECT_EQ(report.at("lengths").at("answers").at("most"), 9);
  EXPECT_EQ(report.at("lengths").at("answers").at("histogram").back(), (json{{"from", 8}, {"to", 15}, {"rows", 2}}));
}

// The least length that so many rows do not pass: 19 of 20 are 95 %.
TEST_F(CheckTest, LengthsByRank) {
  const auto spread = [this](int rows) {
    std::string text;
    for (int i = 1; i <= rows; ++i) text += row("q" + std::to_string(i), std::string(static_cast<size_t>(10 * i), 'x'));
    config_.near_duplicates = false;
    const CheckResult result = check(text);
    return report_text({*checker_, result, training_}, 0);
  };
  EXPECT_TRUE(contains(spread(6), "answers, in characters: 10 to 60, median 30, 95 % up to 60\n"));
  EXPECT_TRUE(contains(spread(20), "answers, in characters: 10 to 200, median 100, 95 % up to 190\n"));
  EXPECT_TRUE(contains(spread(21), "answers, in characters: 10 to 210, median 110, 95 % up to 200\n"));
  EXPECT_TRUE(contains(spread(1), "answers, in characters: 10 to 10, median 10, 95 % up to 10\n"));
}

TEST_F(CheckTest, TwoListsOfRowsAreNoFile) {
  const CheckResult result = check(R"({"train": [{"question": "a"}], "test": [{"question": "b"}]})");
  EXPECT_EQ(found(result, RowFinding::kBadRow), "1");
  EXPECT_TRUE(contains(report_text({*checker_, result, training_}, 5),
                       "got keys [test, train]; a file has one list of rows, this object has several: "
                       "make a file of each"));
  const CheckResult of_none = check("{}");
  EXPECT_EQ(report_text({*checker_, of_none, training_}, 5).find("several"), std::string::npos);
}

TEST_F(CheckTest, ColumnsWithOtherNames) {
  config_.columns = {{"question", "ask"}, {"answer", "reply"}};
  const CheckResult result = check(R"({"ask": "a", "reply": "an answer"})"
                                   "\n"
                                   R"({"ask": "a", "reply": "an answer"})"
                                   "\n");
  EXPECT_EQ(found(result, RowFinding::kExactDuplicate), "2 of 1");
  config_.columns = {{"nothing", "x"}};
  open(row("a", "b"));
  testing::expect_error<UserError>([&] { Checker(config_, rows_, training_); },
                                   "columns: no column is called 'nothing'");
}

TEST_F(CheckTest, TheResultDoesNotDependOnThreads) {
  std::mt19937 random(9);
  std::string text;
  for (int i = 0; i < 3000; ++i) {
    std::string answer;
    for (int k = 0; k < 40; ++k) answer += static_cast<char>('a' + random() % 3);
    text += row("q" + std::to_string(random() % 1000), answer);
  }
  std::string first;
  for (int i = 0; i < 3; ++i) {
    const CheckResult result = check(text);
    const std::string report = report_text({*checker_, result, training_}, 1000000);
    EXPECT_GT(result.count(RowFinding::kConflict), 100);
    if (first.empty()) first = report;
    EXPECT_EQ(report, first);
  }
}

TEST_F(CheckTest, CanBeStopped) {
  open(row("a", "an answer"));
  Checker checker(config_, rows_, training_);
  EXPECT_THROW(checker.run([] { return true; }), Stopped);
}

}  // namespace
}  // namespace rankfold
