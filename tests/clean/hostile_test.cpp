// Data files from strangers: whatever stands in them, it is told or passed over, in bounded time and memory.
#include "clean/clean.h"
#include "clean/report.h"
#include "support/contains.h"
#include "support/sanitizers.h"
#include "support/stopwatch.h"
#include "support/temp_folder.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <random>
#include <string>

namespace rankfold {
namespace {

using testing::TempFolder;

constexpr double kLongest = testing::kSanitized ? 60 : 10;

// Checks and cleans with everything switched on; what is written is sound again. Returns the text of the report, or the
// error.
std::string run(const TempFolder& folder, const std::string& bytes) {
  const auto file = folder.write("rows.json", bytes), output = folder / "out.json";
  std::filesystem::remove(output);
  const testing::Stopwatch watch;
  std::string text;
  try {
    CheckConfig config{.mask = PersonalKinds::all(), .decode_gbk = true};
    config.remove.add(RowFinding::kExactDuplicate);
    config.remove.add(RowFinding::kNearDuplicate);
    Cleaner cleaner(file, DataFiles(file.string()), config);
    const CheckResult result = cleaner.write(output);
    const ReportOf report{cleaner.checker(), result, static_cast<uint32_t>(result.rows), output.string(),
                          cleaner.masked_around()};
    text = report_text(report, 5);
    write_report(report, folder / "report.json");
    EXPECT_TRUE(nlohmann::json::accept(testing::read_bytes(folder / "report.json")));
    const RowFile cleaned = RowFile::open(output);
    EXPECT_EQ(cleaned.size(), result.rows - result.removed_rows());
    for (int64_t i = 0; i < cleaned.size(); ++i) (void)cleaned[i];
  } catch (const UserError& error) {
    text = error.what();
    EXPECT_FALSE(std::filesystem::exists(output));
  }
  EXPECT_LT(watch.seconds(), kLongest) << bytes.substr(0, 80);
  for (const char c : text) EXPECT_TRUE(c == '\n' || static_cast<unsigned char>(c) >= 0x20) << text;
  return text;
}

std::string repeated(const std::string& part, size_t count) {
  std::string all;
  for (size_t i = 0; i < count; ++i) all += part;
  return all;
}

TEST(HostileRowsToClean, OddFiles) {
  const TempFolder folder;
  const std::string sound = "{\"question\": \"a\", \"answer\": \"an answer\"}\n";
  for (const std::string& bytes :
       {std::string("[]"),
        std::string("{}"),
        std::string("{"),
        std::string("\n\n"),
        std::string("\"x\""),
        std::string("[1, 2]"),
        sound + std::string("\0\0", 2) + "\n" + sound,
        sound + "{\"question\": \"\\ud800\", \"answer\": \"x\"}\n",
        sound + "{\"question\": \"\x1B[31m\", \"answer\": \"x\"}\n",
        sound + "{\"\x1B[31m\": 1}\n",
        "\xEF\xBB\xBF\xEF\xBB\xBF" + sound,
        sound + "{\"messages\": []}\n",
        sound + "{\"messages\": [[], 1, null, {}]}\n",
        sound + "{\"messages\": {\"role\": 1}}\n",
        sound + "{\"messages\": [{\"role\": \"assistant\", \"content\": [1, {\"text\": []}, null]}]}\n",
        sound + "{\"question\": [], \"answer\": {}}\n",
        sound + "{\"question\": [{}], \"answer\": [{}]}\n",
        sound + "{\"question\": \"a\", \"answer\": \"b\", \"history\": [[1], [\"a\"], [\"a\", 2], 5]}\n",
        sound + "{\"input_ids\": \"x\"}\n",
        sound + "{\"text\": null}\n",
        sound + "\xFF\xFE\n",
        sound + "{\"text\": \"\x81\x30\x81\x30\"}\n",
        sound + "{\"text\": \"\\u0000\\u0000\"}\n",
        sound + "{\"a\\u0000b\": 1, \"text\": \"x\"}\n"})
    run(folder, bytes);
}

TEST(HostileRowsToClean, LongAndDeepRows) {
  const TempFolder folder;
  const int less = testing::kSanitized ? 3 : 0;  // an eighth of the length
  const std::string sound = "{\"question\": \"a\", \"answer\": \"an answer\"}\n";
  const auto text = [](const std::string& inside) { return "{\"text\": \"" + inside + "\"}\n"; };
  for (const std::string& row :
       {text(repeated("高", 1 << (17 - less))), text(repeated("13912345678 ", 1 << (14 - less))),
        text(repeated("@", 1 << (17 - less))), text(repeated("a@b.com", 1 << (14 - less))),
        text(repeated("1", 1 << (18 - less))), text(repeated("a.", 1 << (17 - less)) + "@b.com"),
        text(repeated("6222 ", 1 << (15 - less))), text(repeated("ä¸", 1 << (15 - less))),
        text(repeated("\\\\", 1 << (17 - less))), text(repeated("[", 1 << (17 - less))),
        text("[" + repeated("[1],", 1 << (15 - less)) + "1]"), text(repeated("\\u0031", 1 << (15 - less))),
        text(repeated("138-", 1 << (15 - less))), text(repeated("86", 1 << (16 - less))),
        text(repeated("order ", 1 << (15 - less)) + "13912345678"),
        "{\"text\": " + repeated("[", 100) + repeated("]", 100) + "}\n",
        "{\"text\": " + repeated("{\"a\":", 1000) + "1" + repeated("}", 1000) + "}\n", text(repeated("x", 17 << 20)),
        "{" + repeated("\"13912345678\": 1,", 1 << (12 - less)) + "\"text\": \"x\"}\n"})
    run(folder, sound + row + row);
}

TEST(HostileRowsToClean, JsonInTextsInTexts) {
  const TempFolder folder;
  std::string inner = "{\"phone\": 13912345678}";
  for (int i = 0; i < 6; ++i) inner = nlohmann::json{{"a", inner}, {"b", {13912345678}}}.dump();
  EXPECT_NE(run(folder, nlohmann::json{{"text", inner}}.dump()).find("masked: "), std::string::npos);
  EXPECT_EQ(testing::read_bytes(folder / "out.json").find("13912345678"), std::string::npos);
}

// All rows share pieces with all others, or all are the same but for a number.
TEST(HostileRowsToClean, RowsThatAreAllAlike) {
  const TempFolder folder;
  std::mt19937 random(11);
  const auto rows = [&](int count, const auto& text) {
    std::string all;
    for (int i = 0; i < count; ++i) all += "{\"text\": \"" + text(i) + "\"}\n";
    return all;
  };
  const int count = testing::kSanitized ? 1000 : 5000;
  run(folder, rows(count, [](int i) {
        return "the dose of drug number " + std::to_string(i) + " is one tablet a day, with water";
      }));
  run(folder, rows(count, [](int) { return std::string("one text"); }));
  std::string base;
  for (int i = 0; i < 200; ++i) base += static_cast<char>('a' + random() % 26);
  run(folder, rows(count, [&](int) {
        std::string text = base;
        for (int k = 0; k < 12; ++k) text[random() % text.size()] = static_cast<char>('a' + random() % 26);
        return text;
      }));
}

TEST(HostileRowsToClean, RandomBytes) {
  const TempFolder folder;
  std::mt19937 random(12);
  const std::string seeds[] = {"{\"question\": \"电话13912345678\", \"answer\": \"a@b.com 11010519491231002X\"}\n",
                               "[{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}, {\"role\": \"assistant\", "
                               "\"content\": \"y\"}]},\n {\"text\": \"z\"}]"};
  for (int i = 0; i < (testing::kSanitized ? 150 : 600); ++i) {
    std::string bytes = repeated(seeds[i % 2], 1 + random() % 3);
    for (unsigned k = random() % 6; k > 0; --k) {
      const size_t at = random() % bytes.size();
      switch (random() % 3) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.erase(at, 1 + random() % 4);
          break;
        default:
          bytes.insert(at, 1, "\"\\{}[],:\n\xEF\xB8\xFF@1"[random() % 15]);
      }
      if (bytes.empty()) bytes = "{";
    }
    run(folder, bytes);
  }
}

}  // namespace
}  // namespace rankfold
