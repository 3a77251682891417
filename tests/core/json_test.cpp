#include "core/json.h"

#include "rankfold/error.h"
#include "support/sanitizers.h"
#include "support/stopwatch.h"
#include "support/temp_folder.h"

#include <nlohmann/json.hpp>

#include <vector>

namespace rankfold {
namespace {

using testing::expect_error;
using testing::TempFolder;

TEST(Json, ReadsValues) {
  const auto value = parse_json(R"({"a": [1, -2, 2.5, "x", null, true], "b": {}})", "text");
  EXPECT_EQ(value.dump(), R"({"a":[1,-2,2.5,"x",null,true],"b":{}})");
  EXPECT_TRUE(value["a"][0].is_number_unsigned());
  EXPECT_EQ(parse_json(" 7 ", "text"), 7);
}

TEST(Json, ErrorsNameThePlace) {
  const auto expect = [](const std::string& text, const std::string& line) {
    expect_error<UserError>([&] { parse_json(text, "f.json"); }, line);
  };
  expect("{\n  \"a\": tru\n}", "f.json:2:11: syntax error");
  expect("{\"a\": 1, \"b\": 2, \"a\": 3}", "f.json:1:20: key \"a\" is given twice");
  expect("{\"x\": {\"a\": 1,\n\"a\": 2}}", "f.json:2:3: key \"a\" is given twice");
  expect("", "f.json:1:1: ");
  expect("{} x", "f.json:1:4: ");
  expect(std::string("{}\0", 3), "f.json:1:3: a NUL byte");
  expect("\"\\ud800\"", "f.json:1:");
  expect("[1e999]", "f.json:1:");
  expect("\"" + std::string(100000, 'x'), "f.json:1:");
  expect_error<UserError>([] { parse_json("[1,]", "rows.jsonl", 41); }, "rows.jsonl:41:4: ");
}

TEST(Json, NamesCommas) {
  const auto error = [](const std::string& text) -> std::string {
    try {
      return "read: " + parse_json(text, "f.json").dump();
    } catch (const UserError& e) {
      return e.what();
    }
  };
  EXPECT_EQ(error("{\n  \"a\": 1,\n}"), "f.json:3:1: a comma too many before '}'");
  EXPECT_EQ(error(R"({"a": [1, ",]", 2, ]})"), "f.json:1:20: a comma too many before ']'");
  EXPECT_EQ(error(R"([1,, 2])"), "f.json:1:4: a comma too many");
  EXPECT_EQ(error(R"({"a": 1}, {"b": 2})").substr(0, 44), "f.json:1:9: a comma too many after the value");
  // Something else is wrong, or first.
  for (const char* other : {R"({"a": 1,])", R"({"a": x, "b": 1,})", R"(,)", R"({"a",})", R"([1, 2)"})
    EXPECT_NE(error(other).find("syntax error"), std::string::npos) << error(other);
}

TEST(Json, SameKeyInTwoObjectsIsFine) { EXPECT_EQ(parse_json(R"([{"a": 1}, {"a": {"a": 2}}])", "text").size(), 2u); }

TEST(Json, DepthIsLimited) {
  const auto nested = [](size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_NO_THROW(parse_json(nested(128), "text"));
  expect_error<UserError>([&] { parse_json(nested(129), "text"); }, "text:1:129: nested deeper than 128 levels");
  expect_error<UserError>([&] { parse_json(nested(200000), "text"); }, "nested deeper than 128 levels");
  expect_error<UserError>([&] { parse_json(nested(3), "text", 1, 2); }, "nested deeper than 2 levels");
}

TEST(Json, FilesThatAreNone) {
  const TempFolder folder;
  const auto expect = [&](const std::string& name, const std::string& line) {
    expect_error<UserError>([&] { read_json(folder / name); }, line);
  };
  expect("missing.json", "missing.json: expected a file, got nothing");
  expect_error<UserError>([&] { read_json(folder.path()); }, "expected a file, got a folder");
  expect_error<UserError>([&] { read_json("/dev/zero"); }, "/dev/zero: expected a file, got a device");
  folder.write("lfs.json", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
  expect("lfs.json", "lfs.json: expected JSON, got a git-lfs pointer");
  folder.write("page.json", "\n<!DOCTYPE html><html></html>");
  expect("page.json", "page.json: expected JSON, got an HTML page");
  folder.write("empty.json", "");
  expect("empty.json", "empty.json: expected JSON, got an empty file");
  folder.write("good.json", "{\"a\": 1}");
  EXPECT_EQ(read_json(folder / "good.json")["a"], 1);
  expect_error<UserError>([&] { read_json(folder / "good.json", 4); }, "expected at most 4 bytes, got 8");
}

TEST(Json, InTheOrderOfTheText) {
  const auto value = parse_ordered_json(R"({"b": [{"z": 1, "a": {}}, 2], "a": null})", "x.json");
  EXPECT_EQ(value.dump(), R"({"b":[{"z":1,"a":{}},2],"a":null})");
  expect_error<UserError>([] { parse_ordered_json("{\"a\": {\"b\": 1, \"c\": 2,\n\"b\": 3}}", "x.json"); },
                          "x.json:2:3: key \"b\" is given twice");
  // Each key costs as much in a long object as in a short one.
  std::string text = "{";
  for (int i = 0; i < 60'000; ++i) text += "\"" + std::to_string(i) + "\":0,";
  const testing::Stopwatch watch;
  EXPECT_EQ(parse_ordered_json(text + "\"x\":0}", "x.json").size(), 60'001u);
  EXPECT_LT(watch.seconds(), testing::kSanitized ? 20 : 5);
}

TEST(Json, Nearest) {
  const std::vector<std::string> names{"q_proj", "k_proj", "W_pack"};
  EXPECT_EQ(nearest("q_prj", names), "q_proj");
  EXPECT_EQ(nearest("W_pck", names), "W_pack");
  EXPECT_EQ(nearest("something_else", names), "");
  EXPECT_EQ(nearest("mo", std::vector<std::string>{"r"}), "");  // everything is near a short name
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(did_you_mean("x"), " (did you mean 'x'?)");
  EXPECT_EQ(did_you_mean(""), "");
}

}  // namespace
}  // namespace rankfold
