// What lora-data clean writes, byte for byte, and when it writes nothing.
#include "clean/clean.h"
#include "clean/report.h"
#include "core/write.h"
#include "support/contains.h"
#include "support/temp_folder.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>

namespace rankfold {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::contains;
using testing::error_of;
using testing::read_bytes;
using testing::TempFolder;

class CleanTest : public ::testing::Test {
 protected:
  CleanTest() {
    config_.remove.add(RowFinding::kExactDuplicate);
    config_.remove.add(RowFinding::kEmptyAnswer);
  }
  void mask_all() { config_.mask = PersonalKinds::all(); }
  std::string clean(const std::string& text) {
    const fs::path file = folder_.write("rows.json", text);
    Cleaner cleaner(file, {}, config_);
    result_ = cleaner.write(output_);
    const fs::path report = folder_ / "report.json";
    const ReportOf of{cleaner.checker(), result_, static_cast<uint32_t>(result_.rows), output_.string(),
                      cleaner.masked_around()};
    write_report(of, report);
    text_ = report_text(of, 5);
    report_ = json::parse(read_bytes(report));
    EXPECT_EQ(read_bytes(file), text) << "the input has changed";
    return read_bytes(output_);
  }

  TempFolder folder_;
  const fs::path output_ = folder_ / "out.json";
  CheckConfig config_;
  CheckResult result_;
  json report_;
  std::string text_;
};

const std::string kA = R"({"question": "a", "answer": "first answer", "n": 1.50e+2})";
const std::string kB = R"({ "answer":"second answer" , "question":"b"})";
const std::string kEmpty = R"({"question": "c", "answer": ""})";

TEST_F(CleanTest, LinesStayAsTheyAre) {
  EXPECT_EQ(clean(kA + "\n" + kB + "\n"), kA + "\n" + kB + "\n");
  EXPECT_EQ(clean(kA + "\r\n" + kB + "\r\n"), kA + "\r\n" + kB + "\r\n");
  EXPECT_EQ(clean(kA + "\n\n" + kB), kA + "\n\n" + kB);
  EXPECT_EQ(result_.removed_rows(), 0);
}

TEST_F(CleanTest, LinesThatGoLeaveNoGap) {
  EXPECT_EQ(clean(kEmpty + "\n" + kA + "\n" + kA + "\n" + kB + "\n" + kEmpty + "\n"), kA + "\n" + kB + "\n");
  EXPECT_EQ(result_.removed[static_cast<size_t>(RowFinding::kEmptyAnswer)], 2);
  EXPECT_EQ(result_.removed[static_cast<size_t>(RowFinding::kExactDuplicate)], 1);
  EXPECT_EQ(report_.at("kept"), 2);
  EXPECT_EQ(report_.at("removed"), (json{{"empty_answers", 2}, {"exact_duplicates", 1}}));
  ASSERT_EQ(report_.at("findings").size(), 3u);
  for (const json& finding : report_.at("findings")) EXPECT_EQ(finding.at("removed"), true);
}

TEST_F(CleanTest, ArraysKeepTheirLookAndWhatIsAround) {
  EXPECT_EQ(clean("[\n  " + kA + ",\n  " + kB + "\n]\n"), "[\n  " + kA + ",\n  " + kB + "\n]\n");
  EXPECT_EQ(clean("[" + kEmpty + "," + kA + ", " + kEmpty + " ,\n" + kB + "," + kEmpty + " ]"),
            "[" + kA + " ,\n" + kB + " ]");
  EXPECT_EQ(clean("{\"version\": 1.0, \"data\": [" + kA + "," + kA + "], \"more\": {}}"),
            "{\"version\": 1.0, \"data\": [" + kA + "], \"more\": {}}");
}

TEST_F(CleanTest, ByteOrderMarksGo) {
  EXPECT_EQ(clean("\xEF\xBB\xBF" + kA + "\n\xEF\xBB\xBF" + kB + "\n"), kA + "\n" + kB + "\n");
  EXPECT_EQ(report_.at("files")[0].at("byte_order_mark"), true);
}

TEST_F(CleanTest, WithoutMaskNothingIsMasked) {
  const std::string row = R"({"question": "电话13912345678", "answer": "a@b.com"})";
  EXPECT_EQ(clean(row + "\n"), row + "\n");
  EXPECT_EQ(report_.at("masked"), (json{{"id", 0}, {"mobile", 0}, {"email", 0}, {"bankcard", 0}}));
  EXPECT_EQ(report_.at("personal_data"), (json{{"id", 0}, {"mobile", 1}, {"email", 1}, {"bankcard", 0}}));
}

TEST_F(CleanTest, MasksWhatIsAskedForInEveryColumn) {
  config_.mask.add(PersonalKind::kMobile);
  EXPECT_EQ(clean(R"({"id": 13912345678, "question": "电话13912345678", "answer": "a@b.com", "tags": ["13812345678"]})"
                  "\n"),
            R"({"id": "[MOBILE]", "question": "电话[MOBILE]", "answer": "a@b.com", "tags": ["[MOBILE]"]})"
            "\n");
  EXPECT_EQ(report_.at("masked").at("mobile"), 3);
  EXPECT_EQ(report_.at("personal_data").at("email"), 1);
  ASSERT_EQ(report_.at("findings").size(), 4u);
  EXPECT_EQ(report_.at("findings")[0], (json{{"finding", "personal_data"},
                                             {"file", (folder_ / "rows.json").string()},
                                             {"line", 1},
                                             {"row", 1},
                                             {"kind", "email"},
                                             {"field", "answer"},
                                             {"offset", 0}}));
  EXPECT_EQ(report_.at("findings")[2].at("field"), "question");
  EXPECT_EQ(report_.at("findings")[2].at("offset"), 2);
  EXPECT_EQ(report_.dump().find("13912345678"), std::string::npos);
}

TEST_F(CleanTest, MasksConversationsToolsAndWhatStandsAroundTheRows) {
  mask_all();
  const std::string cleaned = clean(
      R"({"contact": "x@y.cn", "data": [{"system": "打13912345678", "tools": [{"name": "n", "description": "a@b.com"}],
  "messages": [{"role": "user", "content": [{"type": "text", "text": "证11010519491231002X"}]},
               {"role": "assistant", "content": "",
                "tool_calls": [{"function": {"name": "n", "arguments": {"to": 13912345678}}}]},
               {"role": "tool", "content": "{\"card\": \"6222021234567890128\"}"},
               {"role": "assistant", "content": "好的"}]}], "by": "z@y.cn"})");
  for (const char* secret : {"139", "x@y", "z@y", "a@b", "1101", "6222"})
    EXPECT_EQ(cleaned.find(secret), std::string::npos);
  const json whole = json::parse(cleaned);
  EXPECT_EQ(whole.at("contact"), "[EMAIL]");
  EXPECT_EQ(whole.at("by"), "[EMAIL]");
  EXPECT_EQ(whole.at("data")[0].at("messages")[2].at("content"), "{\"card\": \"[BANKCARD]\"}");
  EXPECT_EQ(report_.at("masked"), (json{{"id", 1}, {"mobile", 2}, {"email", 3}, {"bankcard", 1}}));
  EXPECT_EQ(report_.at("findings")[0], (json{{"finding", "masked"},
                                             {"file", (folder_ / "rows.json").string()},
                                             {"kind", "email"},
                                             {"field", "contact"},
                                             {"offset", 0}}));
  EXPECT_TRUE(contains(text_, "masked around the rows:\n  email in contact at character 0\n  email in by at "));
}

TEST_F(CleanTest, WhatIsMaskedAroundTheRowsAloneIsTold) {
  mask_all();
  clean("{\"contact\": \"x@y.cn\", \"data\": [" + kA + "]}");
  EXPECT_TRUE(contains(text_, "masked around the rows: 1 place\n"));
  EXPECT_EQ(text_.find("nothing found"), std::string::npos) << text_;
  clean("{\"data\": [" + kA + "]}");
  EXPECT_TRUE(contains(text_, "nothing found"));
  EXPECT_EQ(text_.find("around"), std::string::npos) << text_;
}

TEST_F(CleanTest, RowsThatMaskingMakesEqualAreDuplicates) {
  mask_all();
  EXPECT_EQ(clean(R"({"question": "a", "answer": "打13912345678"})"
                  "\n"
                  R"({"question": "a", "answer": "打13812345678"})"
                  "\n"),
            R"({"question": "a", "answer": "打[MOBILE]"})"
            "\n");
  EXPECT_EQ(report_.at("exact_duplicates"), 1);
  EXPECT_EQ(report_.at("masked").at("mobile"), 1) << "of what was written";
}

TEST_F(CleanTest, CleaningTwiceChangesNothing) {
  mask_all();
  config_.remove.add(RowFinding::kNearDuplicate);
  std::string text;
  for (int i = 0; i < 300; ++i)
    text += json{{"question", "问题" + std::to_string(i % 40)},
                 {"answer", "答案是" + std::string(static_cast<size_t>(i % 7), 'x') + "，打13912345678"}}
                .dump() +
            "\n";
  const std::string once = clean(text);
  EXPECT_LT(once.size(), text.size());
  EXPECT_EQ(clean(once), once);
  EXPECT_EQ(result_.removed_rows(), 0);
}

TEST_F(CleanTest, OtherKindsOfRowsGoWhenTheyAreNamed) {
  config_.remove.add(RowFinding::kShortAnswer);
  config_.remove.add(RowFinding::kConflict);
  EXPECT_EQ(clean(kA + "\n" +
                  R"({"question": "a", "answer": "another answer"})"
                  "\n"
                  R"({"question": "d", "answer": "x"})"
                  "\n"),
            kA + "\n");
  EXPECT_EQ(report_.at("removed"), (json{{"conflicts", 1}, {"short_answers", 1}}));
}

TEST_F(CleanTest, ARowThatGoesIsNoReasonForAnother) {
  config_.remove.add(RowFinding::kControl);
  const std::string broken = R"({"question": "d", "answer": "a long answer, the same for \u0001 both"})";
  const std::string sound = R"({"question": "d", "answer": "a long answer, the same for both"})";
  config_.remove.add(RowFinding::kNearDuplicate);
  EXPECT_EQ(clean(broken + "\n" + sound + "\n"), sound + "\n");
}

TEST_F(CleanTest, RowsThatCannotBeReadGo) {
  EXPECT_EQ(clean(kA + "\n{\"question\": \n{\"question\": \"\xFF\", \"answer\": \"x\"}\n[1]\n" + kB + "\n"),
            kA + "\n" + kB + "\n");
  EXPECT_EQ(report_.at("removed"), (json{{"bad_rows", 2}, {"wrong_encoding", 1}}));
  EXPECT_EQ(report_.at("findings")[0].at("removed"), true);
  EXPECT_TRUE(contains(report_.at("findings")[0].at("reason").get<std::string>(), "rows.json:2:"));
}

TEST_F(CleanTest, GbkBecomesUtf8WhereThatIsAskedFor) {
  config_.decode_gbk = true;
  mask_all();
  EXPECT_EQ(
      clean(kA + "\n{\"question\": \"\xB8\xDF\xD1\xAA\xD1\xB9 13912345678\", \"answer\": \"\xB3\xD4\xD2\xA9\"}\n"),
      kA + "\n{\"question\": \"高血压 [MOBILE]\", \"answer\": \"吃药\"}\n");
  EXPECT_EQ(report_.at("gbk_rows"), 1);
}

TEST_F(CleanTest, NothingIsWrittenWhereNoRowIsLeft) {
  EXPECT_TRUE(contains(error_of<UserError>([&] { clean(kEmpty + "\n" + kEmpty); }),
                       "nothing is left of 2 rows: 2 empty_answers"));
  EXPECT_TRUE(contains(error_of<UserError>([&] { clean("{\"q\": 1}\n"); }),
                       "nothing is left of 1 rows: 1 bad_rows; the first: "));
  EXPECT_FALSE(fs::exists(output_));
  EXPECT_FALSE(fs::exists(output_.string() + kUnfinished));
}

TEST_F(CleanTest, NothingIsWrittenWhenItIsStoppedOrTheFileChanges) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += json{{"question", std::to_string(i)}, {"answer", "an answer"}}.dump() + "\n";
  const fs::path file = folder_.write("rows.json", text);
  int asked = 0;
  Cleaner stopped(file, {}, config_);
  EXPECT_THROW(stopped.write(output_, [&] { return ++asked > 5; }), Stopped);
  Cleaner changed(file, {}, config_);
  {
    std::fstream bytes(file, std::ios::in | std::ios::out | std::ios::binary);
    bytes.seekp(static_cast<std::streamoff>(text.size() - 6));
    bytes << "Z";
  }
  EXPECT_TRUE(contains(error_of<UserError>([&] { changed.write(output_); }), "changed while it was read"));
  EXPECT_FALSE(fs::exists(output_));
  EXPECT_FALSE(fs::exists(output_.string() + kUnfinished));
}

// Two that clean into one new file at once: whoever comes second has waited for the first, and finds its file.
TEST_F(CleanTest, AFileThatAppearsMeanwhileIsNotReplaced) {
  const fs::path file = folder_.write("rows.json", kA + "\n");
  Cleaner cleaner(file, {}, config_);
  auto first = std::make_unique<AtomicFile>(output_);
  first->write("the first\n");
  std::atomic<bool> waits = false;
  std::string complaint;
  std::thread second([&] {
    complaint = error_of<UserError>([&] {
      cleaner.write(
          output_, [&] { return waits = true, false; }, false);
    });
  });
  while (!waits) std::this_thread::yield();
  first->commit();
  first.reset();
  second.join();
  EXPECT_TRUE(contains(complaint, "out.json: is there: another program has just written it"));
  EXPECT_EQ(read_bytes(output_), "the first\n");
  EXPECT_FALSE(fs::exists(output_.string() + kUnfinished));
  const ReportOf of{cleaner.checker(), result_, 1};
  EXPECT_TRUE(contains(error_of<UserError>([&] { write_report(of, output_, {}, false); }), "out.json: is there"));
  EXPECT_EQ(read_bytes(output_), "the first\n");
  cleaner.write(output_, {}, true);
  EXPECT_EQ(read_bytes(output_), kA + "\n");
}

TEST_F(CleanTest, HeldOutRowsCanBeTakenOut) {
  config_.remove.add(RowFinding::kHeldOutExact);
  const fs::path heldout = folder_.write("heldout.json", kA);
  const fs::path file = folder_.write("rows.json", kA + "\n" + kB + "\n");
  Cleaner cleaner(file, DataFiles(heldout.string()), config_);
  result_ = cleaner.write(output_);
  EXPECT_EQ(read_bytes(output_), kB + "\n");
  EXPECT_EQ(result_.leaked_rows, 1);
}

}  // namespace
}  // namespace rankfold
