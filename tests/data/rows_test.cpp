#include "data/rows.h"

#include "rankfold/error.h"
#include "support/contains.h"
#include "support/temp_folder.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace rankfold {
namespace {

using testing::contains;
using testing::error_of;
using testing::TempFolder;

class RowsTest : public ::testing::Test {
 protected:
  RowFile open(const std::string& text, const std::string& name = "data.json") const {
    return RowFile::open(folder_.write(name, text));
  }
  // What is wrong with the file, without the folder.
  std::string error(const std::string& text) const {
    const std::string line = error_of<UserError>([&] {
      const RowFile file = open(text);
      for (int64_t i = 0; i < file.size(); ++i) file[i];
    });
    const size_t name = line.find("data.json");
    EXPECT_NE(name, std::string::npos) << line;
    return line.substr(name);
  }
  // "line:value of k" of every row.
  std::vector<std::string> rows(const std::string& text) const {
    const RowFile file = open(text);
    std::vector<std::string> found;
    for (int64_t i = 0; i < file.size(); ++i) {
      const std::string place = file.place(i);
      found.push_back(place.substr(place.rfind(':') + 1) + ":" + file[i].at("k").get<std::string>());
    }
    return found;
  }

  TempFolder folder_;
};

using Rows = std::vector<std::string>;

TEST_F(RowsTest, ReadsAnArray) {
  EXPECT_EQ(rows(R"([{"k": "a"}, {"k": "b"}])"), (Rows{"1:a", "1:b"}));
  EXPECT_EQ(rows("[\n  {\n    \"k\": \"a\"\n  },\n\n  {\"k\": \"b\"}\n]\n"), (Rows{"2:a", "6:b"}));
  EXPECT_EQ(rows(R"([{"k": "]},[{\"\\"}, {"n": [{"x": "\\\""}], "k": "b"}])"), (Rows{"1:]},[{\"\\", "1:b"}));
}

TEST_F(RowsTest, ReadsJsonLinesWhateverItsName) {
  EXPECT_EQ(rows("{\"k\": \"a\"}\n{\"k\": \"b\"}\n"), (Rows{"1:a", "2:b"}));
  EXPECT_EQ(rows("{\"k\": \"a\"}\n\n  \n{\"k\": \"b\"}"), (Rows{"1:a", "4:b"}));
  EXPECT_EQ(open("[{}]", "array.jsonl").size(), 1);
}

TEST_F(RowsTest, TakesByteOrderMarkAndCarriageReturns) {
  EXPECT_EQ(rows("\xEF\xBB\xBF[\r\n{\"k\": \"a\"},\r\n{\"k\": \"\xE7\xB3\x96\"}\r\n]\r\n"),
            (Rows{"2:a", "3:\xE7\xB3\x96"}));
  EXPECT_EQ(rows("\xEF\xBB\xBF{\"k\": \"a\"}\r\n\r\n{\"k\": \"b\"}\r\n"), (Rows{"1:a", "3:b"}));
}

TEST_F(RowsTest, TakesByteOrderMarksWithinTheFile) {
  const std::string mark = "\xEF\xBB\xBF";
  EXPECT_EQ(rows("{\"k\": \"a\"}\n" + mark + "{\"k\": \"b\"}\n" + mark), (Rows{"1:a", "2:b"}));
  EXPECT_EQ(rows("{\"" + mark + "k\": \"a\"}"), (Rows{"1:a"}));
  EXPECT_EQ(rows("[{\"\\ufeffk\": \"a\"}," + mark + " {\"k\": \"" + mark + "\"}]"), (Rows{"1:a", "1:" + mark}));
  EXPECT_TRUE(contains(error("{\"k\": \"a\", \"" + mark + "k\": \"b\"}"), "data.json:1: k: is given twice"));
}

// Each is refused by itself, and the others are read.
TEST_F(RowsTest, KeepsBytesOfOneRowApart) {
  const std::string gbk = "\xB6\xFE\xBC\xD7\xCB\xAB\xEB\xD2";
  for (const auto& [bad, part] : {std::pair{std::string("\xE6("), ": not UTF-8 (byte "},
                                  {gbk, "; if it is GB18030, convert with "},
                                  {std::string("\xE7\xB3"), ": not UTF-8"},
                                  {std::string(1, '\0'), ": a NUL byte is not JSON"},
                                  {std::string("a\tb"), ": "}})
    for (const bool is_array : {false, true}) {
      const std::string between = is_array ? ",\n" : "\n", row = "{\"k\": \"a\"}";
      const std::string text =
          (is_array ? "[" : "") + row + between + "{\"k\": \"" + bad + "\"}" + between + row + (is_array ? "]" : "");
      const RowFile file = open(text);
      ASSERT_EQ(file.size(), 3) << bad;
      EXPECT_EQ(file[0].at("k"), "a");
      EXPECT_EQ(file[2].at("k"), "a");
      const std::string line = error_of<UserError>([&] { file[1]; });
      EXPECT_TRUE(contains(line, "data.json:2:"));
      EXPECT_TRUE(contains(line, part));
    }
  const std::string cut = "{\"k\": \"a\"}\n{\"k\": \"\xE7\xB3";  // a writer was killed within a character
  EXPECT_EQ(open(cut).size(), 2);
  EXPECT_TRUE(contains(error(cut), "data.json:2: not UTF-8 (byte 8 of the line)"));
  EXPECT_TRUE(contains(error("[{\"k\": \"a\"}, {\"k\": \"\xFF\"}]"), "data.json:1: not UTF-8 (byte 21 of the line)"));
}

TEST_F(RowsTest, TakesAnObjectAroundTheRows) {
  EXPECT_EQ(rows("{\"version\": 1, \"ids\": [1, 2],\n\"data\": [\n{\"k\": \"a\"},\n{\"k\": \"b\"}], \"n\": {}}\n"),
            (Rows{"3:a", "4:b"}));
  EXPECT_EQ(rows("{\n\"k\": \"only\"\n}"), (Rows{"1:only"}));
  EXPECT_EQ(open(R"({"a": [{}], "b": [{}]})").size(), 1);  // which one? a row, then
}

TEST_F(RowsTest, PlacesBrokenRows) {
  EXPECT_TRUE(contains(error("[\n{\"k\": \"a\"},\n  {\"k\": a}\n]"), "data.json:3:9: "));
  EXPECT_TRUE(contains(error("[\n{\"k\": \"a\"},\n{\"k\": \"b}\n]"), "data.json:3:"));
  EXPECT_TRUE(contains(error("{\"k\": \"a\"}\n{\"k\": \"b\"\n{\"k\": \"c\"}"), "data.json:2:"));
  EXPECT_TRUE(contains(error("{\"k\": \"a\n{\"k\": \"b\"}"), "data.json:1:"));
  EXPECT_TRUE(contains(error("{\"k\": \"a\"} {\"k\": \"b\"}\n{\"k\": \"c\"}"), "data.json:1:"));
  EXPECT_TRUE(contains(error("[{\"k\": \"\\ud83d\"}]"), "data.json:1:"));
  EXPECT_TRUE(contains(error("{\"k\": \"a\"}\n[1, 2]\n"), "data.json:2: expected an object, got [1,2]"));
  EXPECT_TRUE(contains(error("[{\"k\": \"a\"},\n5]"), "data.json:2: expected an object, got 5"));
  EXPECT_TRUE(contains(error(std::string("{\"k\": \"a\"}\n{\"k\": \"\0\"}\n", 22)), "data.json:2:"));
}

TEST_F(RowsTest, PlacesBrokenArrays) {
  EXPECT_TRUE(contains(error("[\n{\"k\": \"a\"},\n{\"k\": \"b\"}"), "the file ends too early"));
  EXPECT_TRUE(contains(error("[\n{\"k\": \"a\"},\n"), "data.json:3:1: expected a row (the file ends too early)"));
  EXPECT_TRUE(contains(error("[\n{\"k\": \"a\"},\n{\"k\": \"b"), "data.json:3:"));
  EXPECT_TRUE(contains(error("[\n{\"k\": \"a\"},\n{\"k\": \"b\\"), "data.json:3:"));
  EXPECT_TRUE(contains(error("[{\"k\": \"a\"}]\nx"), "data.json:2:1: expected the end of the file"));
  EXPECT_TRUE(contains(error("[{\"k\": \"a\"}}]"), "data.json:1:12: expected ',' or ']'"));
}

TEST_F(RowsTest, NamesCommas) {
  const std::string between = "expected a row, got ']': a comma too many before it";
  EXPECT_EQ(error("[\n{\"k\": \"a\"},\n]"), "data.json:3:1: " + between);
  EXPECT_EQ(error(R"([{"k": 1},])"), "data.json:1:11: " + between);
  EXPECT_EQ(error("{\"data\": [{\"k\": 1}, ]}"), "data.json:1:21: " + between);
  EXPECT_EQ(error(R"([{"k": 1},,{"k": 2}])"), "data.json:1:11: expected a row, got ',': a comma too many");
  EXPECT_EQ(error(R"([,{"k": 1}])"), "data.json:1:2: expected a row, got ',': a comma too many");
  EXPECT_EQ(error("[\n{\"k\": \"a\"}\n{\"k\": \"b\"}]"),
            "data.json:3:1: expected ',' or ']' after a row, got the next row: a comma is missing before it");

  EXPECT_EQ(error(R"([{"k": 1,}])"), "data.json:1:10: a comma too many before '}'");
  EXPECT_EQ(error(R"({"k": 1,})"), "data.json:1:9: a comma too many before '}'");
  EXPECT_EQ(error("[{\"k\": 1},\n {\"k\":\n  [1, \",]\\\",}\", 2, ]}]"), "data.json:3:20: a comma too many before ']'");
  EXPECT_EQ(error("{\"k\": 1}\n{\"k\": 2, }\n"), "data.json:2:10: a comma too many before '}'");
  EXPECT_EQ(error("{\"data\": [{\"k\": 1},\n{\"k\": 2}],\n}"), "data.json:3:1: a comma too many before '}'");
  EXPECT_TRUE(contains(error("{\"k\": 1},\n{\"k\": 2}\n"), "data.json:1:9: a comma too many after the value"));
  // Another defect comes first, or the brackets are no pair.
  EXPECT_TRUE(contains(error(R"([{"k": x, "n": 1,}])"), "data.json:1:8: syntax error"));
  EXPECT_TRUE(contains(error(R"({"k": 1,])"), "data.json:1:9: syntax error"));
}

TEST_F(RowsTest, EveryCutOfAnArrayIsRefused) {
  const std::string whole = "[{\"k\": \"a\", \"n\": [1, {\"x\": \"\\\"\"}]},\n {\"k\": \"b\"}]";
  EXPECT_EQ(rows(whole).size(), 2u);
  for (size_t length = 1; length < whole.size(); ++length) error(whole.substr(0, length));
}

TEST_F(RowsTest, RefusesWhatIsNotRows) {
  EXPECT_TRUE(contains(error("[]"), "no rows"));
  EXPECT_TRUE(contains(error(" \n\n"), "no rows"));
  EXPECT_TRUE(contains(error("question,answer\na,b\n"),
                       "data.json:1:1: expected a JSON array or JSON Lines, got question,answer"));
  EXPECT_TRUE(contains(error("version https://git-lfs.github.com/spec/v1\n"), "git-lfs pointer"));
  EXPECT_TRUE(contains(error(""), "empty"));
  EXPECT_TRUE(contains(error_of<UserError>([&] { RowFile::open(folder_.path() / "none.json"); }), "none.json"));
  EXPECT_TRUE(contains(error_of<UserError>([&] { RowFile::open(folder_.path()); }), folder_.path().string()));
}

TEST_F(RowsTest, HintsAtTheEncoding) {
  const std::string gb = "[\n{\"k\": \"a\"},\n{\"k\": \"\xCC\xC7\xC4\xF2\xB2\xA1\"}]";
  EXPECT_TRUE(contains(error(gb), "data.json:3: not UTF-8"));
  EXPECT_TRUE(contains(error(gb), "convert with iconv -f GB18030 -t UTF-8"));
  EXPECT_TRUE(contains(error("{\"k\": \"\xFF\"}"), "data.json:1: not UTF-8 (byte 8 of the line); convert the file"));
  EXPECT_TRUE(contains(error(std::string("\xFF\xFE[\0]\0", 6)), "iconv -f UTF-16"));
  for (const char* bad : {"\xED\xA0\x80", "\xC0\x80", "\xF4\x90\x80\x80", "\xE7\xB3", "\x80"})
    EXPECT_TRUE(contains(error("{\"k\": \"" + std::string(bad) + "\"}"), "not UTF-8"));
}

}  // namespace
}  // namespace rankfold
