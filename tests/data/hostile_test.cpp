// Tokenizers and data files from strangers.
#include "rankfold/dataset.h"
#include "rankfold/tokenizer.h"
#include "support/imposters.h"
#include "support/tiny_tokenizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

namespace rankfold {
namespace {

using testing::contains;
using testing::error_of;
using testing::expect_imposters_are_named;
using testing::TempFolder;

std::string varint(uint64_t x) {
  std::string bytes;
  for (; x >= 0x80; x >>= 7) bytes += static_cast<char>((x & 0x7F) | 0x80);
  return bytes + static_cast<char>(x);
}
std::string field(int number, const std::string& bytes) {
  return varint(static_cast<uint64_t>(number) << 3 | 2) + varint(bytes.size()) + bytes;
}
std::string piece(const std::string& name, float score = 0, uint64_t type = 1) {
  std::string bytes(4, '\0');
  std::memcpy(bytes.data(), &score, 4);
  return field(1, field(1, name) + "\x15" + bytes + "\x18" + varint(type));
}

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
    const auto start = std::chrono::steady_clock::now();
    const std::string line = error_of<UserError>([&] {
      const Tokenizer tokenizer = open();
      tokenizer.decode(tokenizer.encode("What does it do?"));
    });
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
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
  constexpr uint64_t kByte = 6;
  EXPECT_EQ(error_with(model_ + piece("\xE9\xBE\x98\xE9\xBE\x98")), "");
  EXPECT_TRUE(contains(error_with(model_ + piece(std::string(1 << 20, 'x'))), "piece 400 is 1048576 bytes long"));
  EXPECT_TRUE(contains(error_with(model_ + piece(std::string("a\0b", 3))), "piece 400 holds a NUL byte"));
  EXPECT_TRUE(contains(error_with(model_ + piece("b", std::nanf(""))), "the score of piece 400 is not finite"));
  for (const char* name : {"<0x-1>", "<0xZZ>", "<0x100>", "<0x>", "", "<0x41"})
    EXPECT_TRUE(contains(error_with(model_ + piece(name, 0, kByte)), "not a sentencepiece model")) << name;
  EXPECT_TRUE(contains(error_with(model_ + piece("<0x41>", 0, kByte)), "not a sentencepiece model"));  // twice
  EXPECT_TRUE(contains(error_with(model_ + piece("the") + piece("the")), "not a sentencepiece model"));
  EXPECT_TRUE(contains(error_with(model_ + piece("")), "not a sentencepiece model"));
  EXPECT_TRUE(contains(error_with(piece("a")), "not a sentencepiece model"));  // no unknown piece
}

TEST_F(HostileTokenizer, NormaliserTables) {
  const auto error_with_table = [&](uint32_t trie_size, std::vector<uint32_t> units, const std::string& texts) {
    std::string table(4 + 4 * units.size(), '\0');
    std::memcpy(table.data(), &trie_size, 4);
    std::memcpy(table.data() + 4, units.data(), 4 * units.size());
    return error_with(model_ + field(3, field(2, table + texts)));
  };
  const std::string texts("a\0", 2);
  constexpr uint32_t kValue = 1u << 31;
  std::vector<uint32_t> units(512, kValue);
  units[0] = 256 << 10;
  EXPECT_EQ(error_with_table(2048, units, texts), "");
  for (const uint32_t size : {0u, 3u, 2044u, 2049u, 2050u, 2051u, 0x7FFFFFFFu, 0xFFFFFFFFu})
    if (size != 2044u) {
      EXPECT_TRUE(contains(error_with_table(size, units, texts), "normaliser table")) << size;
    }
  EXPECT_TRUE(contains(error_with_table(2048, units, "ab"), "normaliser table"));  // a text without an end
  std::vector<uint32_t> wild = units;
  wild[0] = 512 << 10;  // leads beyond the trie
  EXPECT_TRUE(contains(error_with_table(2048, wild, texts), "normaliser table"));
  wild = units;
  wild[300] = 400 << 10 | 1 << 9;  // a wide offset
  EXPECT_TRUE(contains(error_with_table(2048, wild, texts), "normaliser table"));
  wild = units;
  wild[300] = kValue | 2;  // a text beyond the last one
  EXPECT_TRUE(contains(error_with_table(2048, wild, texts), "normaliser table"));
}

TEST_F(HostileTokenizer, IsAtMost64MiB) {
  EXPECT_TRUE(contains(error_with(model_ + std::string(64 << 20, '\0')), "expected at most 67108864 bytes"));
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

}  // namespace
}  // namespace rankfold
