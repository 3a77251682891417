// Tokenizers and data files from strangers.
#include "data/model_bytes.h"
#include "data/rows.h"
#include "data/template.h"
#include "rankfold/dataset.h"
#include "rankfold/tokenizer.h"
#include "support/contains.h"
#include "support/imposters.h"
#include "support/sanitizers.h"
#include "support/stopwatch.h"
#include "support/tiny_tokenizer.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <functional>

namespace rankfold {
namespace {

using namespace std::string_literals;

using testing::contains;
using testing::error_of;
using testing::expect_imposters_are_named;
using testing::field;
using testing::kByte;
using testing::kControl;
using testing::kUnused;
using testing::kUserDefined;
using testing::NormaliserTable;
using testing::number_field;
using testing::piece;
using testing::real_field;
using testing::TempFolder;
using testing::varint;

// What it takes to accept or refuse a file; other processes are nothing to us.
constexpr double kLongest = testing::kSanitized ? 100 : 5;

class HostileTokenizer : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const TempFolder folder;
    testing::train_tokenizer(folder.path(), 400);
    model_ = testing::read_bytes(folder / "tokenizer.model");
  }
  void SetUp() override { folder_.write("tokenizer.model", model_); }
  std::string error_with(const std::string& bytes) {
    folder_.write("tokenizer.model", bytes);
    const testing::Stopwatch watch;
    const std::string line = error_of<UserError>([&] {
      const Tokenizer tokenizer = open();
      tokenizer.decode(tokenizer.encode("What does it do?"));
    });
    EXPECT_LT(watch.seconds(), kLongest);
    return line;
  }
  Tokenizer open() const { return Tokenizer::open(folder_.path(), true, 2); }

  static inline std::string model_;
  TempFolder folder_;
};

TEST_F(HostileTokenizer, Imposters) {
  expect_imposters_are_named(folder_ / "tokenizer.model", [&] { open(); });
  SetUp();
  expect_imposters_are_named(folder_ / "tokenizer_config.json", [&] { open(); });
}

TEST_F(HostileTokenizer, Pieces) {
  EXPECT_EQ(error_with(model_ + piece("\xE9\xBE\x98\xE9\xBE\x98")), "");
  EXPECT_EQ(error_with(model_ + piece(std::string(512, 'x'))), "");
  EXPECT_TRUE(contains(error_with(model_ + piece(std::string(513, 'x'))), "piece 400 is 513 bytes long"));
  EXPECT_TRUE(contains(error_with(model_ + piece(std::string(1 << 20, 'x'))), "piece 400 is 1048576 bytes long"));
  for (const uint64_t type : {uint64_t{0}, uint64_t{7}, uint64_t{1} << 32 | kUserDefined, ~uint64_t{0}})
    EXPECT_TRUE(contains(error_with(model_ + piece("x", 0, type)), "piece 400 is of type")) << type;
  EXPECT_TRUE(contains(error_with(model_ + piece(std::string("a\0b", 3))), "piece 400 holds a NUL byte"));
  EXPECT_TRUE(contains(error_with(model_ + piece("b", std::nanf(""))), "the score of piece 400 is not finite"));
  for (const char* name : {"<0x-1>", "<0xZZ>", "<0x100>", "<0x>", "", "<0x41"})
    EXPECT_TRUE(contains(error_with(model_ + piece(name, 0, kByte)), "not a sentencepiece model")) << name;
  EXPECT_TRUE(contains(error_with(model_ + piece("<0x41>", 0, kByte)), "not a sentencepiece model"));  // twice
  EXPECT_TRUE(contains(error_with(model_ + piece("the") + piece("the")), "not a sentencepiece model"));
  EXPECT_TRUE(contains(error_with(model_ + piece("")), "not a sentencepiece model"));
  EXPECT_TRUE(contains(error_with(piece("a")), "not a sentencepiece model"));  // no unknown piece
}

// Protobuf reads the low 32 bits of a key, passes over fields of another kind, and the last of several counts: what we do
// not see, or see otherwise, is refused.
TEST_F(HostileTokenizer, ProtobufIsReadAsStrictlyAsCanBe) {
  const std::string wild_table(
      "\x04\0\0\0\0\xFC\xFF\x7F"
      "a\0",
      10);
  const auto wide = [](int number, int wire, const std::string& bytes) {  // a key that is `number` in 32 bits alone
    return varint(uint64_t{1} << 32 | static_cast<uint64_t>(number) << 3 | static_cast<uint64_t>(wire)) + bytes;
  };
  const auto framed = [](const std::string& bytes) { return varint(bytes.size()) + bytes; };
  const std::string broken = "not a sentencepiece model (broken protobuf)";
  EXPECT_TRUE(contains(error_with(model_ + wide(3, 2, framed(field(2, wild_table)))), broken));
  EXPECT_TRUE(contains(error_with(model_ + field(3, wide(2, 2, framed(wild_table)))), broken));
  EXPECT_TRUE(contains(error_with(model_ + field(1, field(1, "x") + wide(2, 5, "\0\0\xC0\x7F"s))), broken));
  EXPECT_TRUE(contains(error_with(model_ + wide(1, 2, framed(field(1, std::string(1 << 20, 'x'))))), broken));
  EXPECT_TRUE(contains(error_with(model_ + "\x9A\x80\x80\x80\x80\x80\x80\x80\x80\x00"s), broken));
  EXPECT_TRUE(contains(error_with(model_ + "\x9A\x80\x80\x80\x80"), broken));
  EXPECT_TRUE(contains(error_with(model_ + "\x02\x00"s), broken));                       // field 0
  EXPECT_TRUE(contains(error_with(model_ + "\x1B\x1C"), broken));                        // a group
  EXPECT_TRUE(contains(error_with(model_ + "\x1A\x81\x80\x80\x80\x80\x00x"s), broken));  // a length of 6 bytes
  EXPECT_TRUE(contains(error_with(model_ + number_field(3, 1)), broken));                // a number for a message
  EXPECT_TRUE(contains(error_with(model_ + field(1, field(1, "x") + number_field(1, 0))), broken));
  EXPECT_TRUE(contains(error_with(model_ + field(3, field(2, "") + number_field(2, 0))), broken));
  for (const std::string& unknown :
       {field(6, ""), field(200, ""), field(1, field(4, "")), field(1, number_field(200, 1)),
        field(2, number_field(200, 1)), field(3, field(7, "")), field(5, field(7, ""))})
    EXPECT_TRUE(contains(error_with(model_ + unknown), "is none of its)"));
  EXPECT_EQ(error_with(model_ + field(2, number_field(54, 1))), "");  // a setting of some later version
}

TEST_F(HostileTokenizer, SamplesAreNotRun) {
  const std::string sample = field(1, field(1, "\x1B[31mHELLO\n") + field(2, "x"));
  EXPECT_EQ(error_with(model_ + field(4, "")), "");  // as real models have it
  EXPECT_TRUE(contains(error_with(model_ + field(4, sample)), "holds samples to test itself with"));
}

TEST_F(HostileTokenizer, PiecesThatBeginOneAnother) {
  const auto nested = [&](size_t count, uint64_t type) {
    std::string bytes = model_;
    for (size_t i = 1; i <= count; ++i) bytes += piece(std::string(i, '@'), 0, type);
    return bytes;
  };
  EXPECT_EQ(error_with(nested(500, testing::kNormal)), "");
  EXPECT_EQ(error_with(nested(64, kUserDefined)), "");
  const Tokenizer tokenizer = open();
  const std::string text = "x" + std::string(200, '@') + "x";
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  EXPECT_TRUE(contains(error_with(nested(65, kUserDefined)), "more than 64 user-defined pieces begin one another"));
  EXPECT_EQ(error_with(nested(60, kUserDefined) + piece(std::string(100, 'y'), 0, kUserDefined)), "");
}

TEST_F(HostileTokenizer, PiecesThatCollide) {
  // The 141 normal pieces stand in 257 buckets, with 166 more in 541.
  for (const size_t buckets : {257, 541}) {
    std::string bytes = model_;
    for (size_t i = 0, found = 0; found < 66; ++i)
      if (const std::string name = "#" + std::to_string(i); std::hash<std::string_view>()(name) % buckets == 0)
        bytes += piece(name), ++found;
    for (int i = 0; buckets == 541 && i < 100; ++i) bytes += piece("%" + std::to_string(i));
    EXPECT_TRUE(contains(error_with(bytes), "have one place in a hash table")) << buckets;
  }
}

TEST_F(HostileTokenizer, HasLimits) {
  const auto many = [&](size_t count, uint64_t type, size_t length = 1) {
    std::string bytes = model_;
    for (size_t i = 0; i < count; ++i) bytes += piece(std::string(length, '#') + std::to_string(i), 0, type);
    return bytes;
  };
  EXPECT_EQ(error_with(many(16'000, kControl)), "");
  for (const uint64_t type : {kControl, kUserDefined, kUnused})
    EXPECT_TRUE(contains(error_with(many(17'000, type)), "control, user-defined and unused pieces; at most 16384"));
  EXPECT_TRUE(contains(error_with(many(16'000, kControl, 100)), "its control pieces have"));
  EXPECT_TRUE(contains(error_with(many(400'000, testing::kNormal)), "has more than 400000 pieces"));
  // Of a unigram model, which builds a trie.
  const std::string unigram = field(2, number_field(3, 1));
  EXPECT_EQ(error_with(many(3'000, testing::kNormal) + unigram), "");
  std::string bytes = model_ + unigram;
  for (int i = 0; i < 2'200; ++i) bytes += piece(std::to_string(10'000 + i) + std::string(500, 'x'));
  EXPECT_TRUE(contains(error_with(bytes), "its pieces have more than 1048576 different beginnings"));
  EXPECT_TRUE(contains(error_with(model_ + std::string(16 << 20, '\0')), "expected at most 16777216 bytes"));
}

TEST_F(HostileTokenizer, NormaliserTables) {
  const auto error_with_table = [&](const std::string& table) {
    return error_with(model_ + field(3, field(2, table)));
  };
  NormaliserTable sound = NormaliserTable::of({{"A", "a"}});
  EXPECT_EQ(error_with_table(sound.bytes()), "");
  EXPECT_EQ(open().encode("AA"), open().encode("aa"));
  for (const uint32_t size : {0u, 3u, 3073u, 3074u, 3075u, 0x7FFFFFFFu, 0xFFFFFFFFu})
    EXPECT_TRUE(contains(error_with_table(sound.bytes(size)), "normaliser table is broken")) << size;
  const auto expect_broken = [&](const std::function<void(NormaliserTable&)>& damage) {
    NormaliserTable table = sound;
    damage(table);
    EXPECT_TRUE(contains(error_with_table(table.bytes()), "normaliser table is broken"));
  };
  expect_broken([](NormaliserTable& table) { table.texts = "ab"; });     // a text without an end
  expect_broken([](NormaliserTable& table) { table.units[0] |= 'a'; });  // a byte leads to the root
  expect_broken([](NormaliserTable& table) { table.units[0] |= table.kValue; });
  expect_broken([](NormaliserTable& table) { table.units[0] = 768 << 10; });             // leads beyond the trie
  expect_broken([](NormaliserTable& table) { table.units[300] = 400 << 10 | 1 << 9; });  // a wide offset
  expect_broken([](NormaliserTable& table) { table.units[300] = table.kValue | 2; });    // a text beyond the last one
  EXPECT_TRUE(contains(error_with_table(std::string(1 << 20 | 1, '\0')), "at most 1048576 are supported"));
}

TEST_F(HostileTokenizer, RulesOfTheNormaliser) {
  const auto error_with_table = [&](const NormaliserTable& table) {
    return error_with(model_ + field(3, field(2, table.bytes())));
  };
  const auto nested = [](size_t count) {
    NormaliserTable::Rules rules;
    for (size_t i = 1; i <= count; ++i) rules[std::string(i, 'a')] = "b";
    return NormaliserTable::of(rules);
  };
  EXPECT_EQ(error_with_table(nested(32)), "");
  EXPECT_EQ(open().decode(open().encode(std::string(70, 'a'))), "bbb");
  EXPECT_TRUE(contains(error_with_table(nested(33)), "more than 32 rules of its normaliser begin one another"));
  EXPECT_EQ(error_with_table(NormaliserTable::of({{std::string(500, 'a'), "b"}})), "");

  // "a", "aa", "aaa"... without an end.
  NormaliserTable circle = nested(1);
  const uint32_t unit = NormaliserTable::unit_of(256, 'a');
  circle.units[unit] = NormaliserTable::lead(unit, 256) | NormaliserTable::kLeaf | 'a';
  circle.units[256] = NormaliserTable::kValue;
  EXPECT_TRUE(contains(error_with_table(circle), "its normaliser table leads in a circle"));
  // Two ways to the same units, as Darts makes them of equal endings: "xab" and "yab".
  NormaliserTable shared = NormaliserTable::of({{"xab", "c"}, {"y", ""}});
  const uint32_t x = NormaliserTable::unit_of(256, 'x'), y = NormaliserTable::unit_of(256, 'y');
  shared.units[y] = NormaliserTable::lead(y, x ^ shared.units[x] >> 10) | 'y';
  EXPECT_EQ(error_with_table(shared), "");
  EXPECT_EQ(open().decode(open().encode("xab yab ya")), "c c ya");

  // What it makes of a byte counts towards the longest text.
  EXPECT_EQ(error_with_table(NormaliserTable::of({{"a", std::string(256, 'b')}})), "");
  EXPECT_EQ(open().encode(std::string(4096, 'e')).size(), 4096u);
  EXPECT_EQ(error_of<UserError>([&] { open().encode(std::string(4097, 'e')); }),
            "a text of 4097 bytes; at most 4096 are encoded");
  EXPECT_TRUE(
      contains(error_with_table(NormaliserTable::of({{"a", std::string(257, 'b')}})), "a text of more than 256 bytes"));
  const std::string spaces = field(5, field(2, NormaliserTable::of({{"a", std::string(256, ' ')}}).bytes()));
  const auto controls = [](char c) { return piece(std::string(500, c), 0, kControl); };
  EXPECT_EQ(error_with(model_ + controls('e') + controls('f') + spaces), "");
  EXPECT_TRUE(contains(error_with(model_ + controls('e') + controls('f') + controls('g') + spaces),
                       "its control pieces have 1507 bytes; at most 1365"));
}

TEST(HostileRows, Imposters) {
  const TempFolder folder;
  expect_imposters_are_named(folder / "rows.json", [&] { Dataset::open(folder / "rows.json", nullptr, {}, 100); });
}

TEST(HostileRows, WhatStandsAroundTheRowsIsJsonToo) {
  const TempFolder folder;
  const auto error = [&](const std::string& text) {
    return error_of<UserError>([&] { Dataset::open(folder.write("rows.json", text), nullptr, {}, 100); });
  };
  const std::string rows = "[{\"input_ids\": [1, 2]},\n{\"input_ids\": [3, 4]}]";
  EXPECT_EQ(error("{\"version\": 1, \"data\": " + rows + ", \"more\": {\"a\": []}}"), "");
  EXPECT_TRUE(contains(error("{\"version\": 00, \"data\": " + rows + "}"), "rows.json:1:"));
  EXPECT_TRUE(contains(error("{\"version\": NaN, \"data\": " + rows + "}"), "rows.json:1:"));
  EXPECT_TRUE(contains(error("{\"data\": " + rows + "uuu}"), "rows.json:2:"));
  EXPECT_TRUE(contains(error("{\"data\": " + rows + ",}"), "rows.json:2:"));
  EXPECT_TRUE(contains(error("{\"data\": " + rows + ",\n\"data\": 1}"), "rows.json:3:"));
}

TEST(HostileRows, WhatIsNoObjectIsRefusedWhereItStands) {
  const TempFolder folder;
  const auto error = [&](const std::string& text) {
    return error_of<UserError>([&] { Dataset::open(folder.write("rows.json", text), nullptr, {}, 100); });
  };
  EXPECT_TRUE(contains(error("[{\"input_ids\": [1, 2]},\n [1], {"), "rows.json:2: expected an object, got [1]"));
  EXPECT_TRUE(contains(error("{\"input_ids\": [1, 2]}\n1\n"), "rows.json:2: expected an object, got 1"));
  DataConfig config;
  config.skip_bad_rows = true;
  const Dataset rows =
      Dataset::open(folder.write("rows.json", "[1, {\"input_ids\": [1, 2]}, \"x\"]"), nullptr, config, 100);
  EXPECT_EQ(rows.size(), 1);
  EXPECT_EQ(rows.report().bad, 2);
  EXPECT_EQ(rows.row_number(0), 2);
}

// The error of a row says its column without another look at what stands before it.
TEST(HostileRows, BadRowsOfALongLine) {
  constexpr int kRows = 5'000;
  const TempFolder folder;
  std::string text = "[{x}";
  for (int i = 1; i < kRows; ++i) text += ", {x}               ";
  const RowFile rows = RowFile::open(folder.write("rows.json", text + "]"));
  ASSERT_EQ(rows.size(), kRows);
  const testing::Stopwatch watch;
  std::string last;
  for (int64_t i = 0; i < rows.size(); ++i) last = error_of<UserError>([&] { rows[i]; });
  EXPECT_LT(watch.seconds(), kLongest);
  EXPECT_TRUE(contains(last, "rows.json:1:" + std::to_string(text.rfind('x') + 1) + ": "));
}

TEST(HostileRows, HaveALength) {
  const TempFolder folder;
  const std::string row = "{\"input_ids\": [1, 2" + std::string(16 << 20, ' ') + "]}";
  const auto error = [&](const std::string& text) {
    return error_of<UserError>([&] { Dataset::open(folder.write("rows.json", text), nullptr, {}, 100); });
  };
  EXPECT_TRUE(
      contains(error("{\"input_ids\": [1, 2]}\n" + row), "rows.json:2: a row of 16777237 bytes; at most 16777216"));
  EXPECT_TRUE(contains(error(row.substr(0, row.size() - 2)), "rows.json:1: a row of"));
  EXPECT_TRUE(contains(error("[" + row.substr(0, row.size() - 2)), "rows.json:1: a row of"));
  EXPECT_TRUE(contains(error("{\"data\": [{\"input_ids\": [1, 2]}]," + std::string(16 << 20, ' ') + "\"x\": 1}"),
                       "bytes stand around the rows; at most 16777216"));
  EXPECT_EQ(error("{\"data\": [{\"input_ids\": [1, 2]}" + std::string(16 << 20, '\n') + "], \"x\": 1}"), "");
}

TEST(HostileRows, TextsHaveALength) {
  const TempFolder folder;
  testing::train_tokenizer(folder.path(), 400);
  const Tokenizer tokenizer = Tokenizer::open(folder.path(), true);
  const auto open = [&](const std::string& text, const DataConfig& config) {
    return Dataset::open(folder.write("rows.json", text), &tokenizer, config, 400);
  };
  const auto error = [&](const std::string& text, const DataConfig& config = {}) {
    return error_of<UserError>([&] { open(text, config); });
  };
  const std::string longest(1 << 20, 'a');
  const std::string sound = R"({"text": "the"})"
                            "\n";
  EXPECT_EQ(error(R"({"text": ")" + longest + "\"}"), "");
  for (const char* begin : {R"({"text": ")", R"({"question": "x", "answer": ")", R"({"answer": "x", "question": ")"}) {
    const std::string text = sound + begin + longest + "a\"}\n" + sound;
    EXPECT_TRUE(contains(error(text), "rows.json:2: a ")) << begin;
    EXPECT_TRUE(contains(error(text), "1048576")) << begin;
    DataConfig config;
    config.skip_bad_rows = true;
    EXPECT_EQ(open(text, config).report().bad, 1) << begin;
  }
  DataConfig config;
  for (int i = 0; i < 6'000; ++i) config.prompt_template += "{question}";
  EXPECT_TRUE(contains(error(R"({"question": ")" + std::string(1000, 'a') + R"(", "answer": "x"})", config),
                       "rows.json:1: a prompt of more than 1048576 bytes"));
  config.prompt_template += std::string(10'000, 'x');
  EXPECT_TRUE(contains(error(sound, config), "prompt_template: expected at most 65536 bytes, got 70011"));
  EXPECT_THROW(render_prompt(config.prompt_template, "x"), UserError);
}

}  // namespace
}  // namespace rankfold
