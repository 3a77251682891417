#include "rankfold/tokenizer.h"

#include "data/model_bytes.h"
#include "rankfold/error.h"
#include "support/contains.h"
#include "support/temp_folder.h"
#include "support/tiny_tokenizer.h"
#include "text/vocabulary.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <thread>

namespace rankfold {
namespace {

using testing::contains;
using testing::error_of;
using testing::field;
using testing::real_field;
using testing::TempFolder;
using testing::tiny_corpus;
using testing::train_tokenizer;

constexpr int kSize = 500;

class TokenizerTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    TempFolder folder;
    train_tokenizer(folder.path(), kSize);
    std::ifstream in(folder.path() / "tokenizer.model", std::ios::binary);
    model_.assign(std::istreambuf_iterator<char>(in), {});
  }
  void SetUp() override { folder_.write("tokenizer.model", model_); }

  Tokenizer open(bool bos_by_default = true, int32_t eos = -1) const {
    return Tokenizer::open(folder_.path(), bos_by_default, eos);
  }
  std::string open_error(int32_t eos = -1) const {
    return error_of<UserError>([&] { open(true, eos); });
  }

  static inline std::string model_;
  TempFolder folder_;
};

TEST_F(TokenizerTest, TextSurvives) {
  const Tokenizer tokenizer = open();
  EXPECT_EQ(tokenizer.size(), kSize);
  for (const std::string text : {"What does metformin do?", "糖尿病患者应当如何控制血糖?", " two  spaces ",
                                 "龘 \xF0\x9F\x98\x80", "a\tb\nc\r\n", ""})
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
}

TEST_F(TokenizerTest, AControlTokenInTextIsText) {
  const Tokenizer tokenizer = open();
  for (const std::string text : {"<s>", "</s>", "a<s>b</s>", "<unk>", "<0x41>"}) {
    const auto ids = tokenizer.encode(text);
    for (const int32_t id : ids) EXPECT_TRUE(id > 2) << text << " " << id;
    EXPECT_EQ(tokenizer.decode(ids), text);
  }
}

TEST_F(TokenizerTest, OtherControlTokensAreTextToo) {
  train_tokenizer(folder_.path(), kSize, {{"control_symbols", "<pad>,the"}});
  const Tokenizer tokenizer = open();
  ASSERT_EQ(tokenizer.piece(4), "the");
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("the <pad> blood")), "the <pad> blood");
  // Where sentencepiece cannot do that, the model is refused rather than some row of the data.
  train_tokenizer(folder_.path(), kSize, {{"control_symbols", "@"}});
  EXPECT_TRUE(contains(open_error(), "a text that spells the control token '@' cannot be encoded"));
}

TEST_F(TokenizerTest, NulAndBrokenUtf8DoNotCrash) {
  const Tokenizer tokenizer = open();
  const std::string nul("a\0b", 3);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(nul)), nul);
  for (const std::string text : {"\xFF\xFE", "abc\xE7\xB3", "\xC0\x80", "\xED\xA0\x80", "\x80"})
    for (const int32_t id : tokenizer.encode(text)) EXPECT_TRUE(id >= 0 && id < kSize);
}

TEST_F(TokenizerTest, DecodeLeavesControlTokensOut) {
  const Tokenizer tokenizer = open();
  std::vector<int32_t> ids = tokenizer.encode("the answer");
  ids.insert(ids.begin(), 1);
  ids.push_back(0);
  ids.push_back(2);
  ids.push_back(kSize);  // of an embedding that is padded beyond the pieces
  EXPECT_EQ(tokenizer.decode(ids), "the answer");
  EXPECT_THROW(tokenizer.decode({-1}), std::invalid_argument);
  EXPECT_THROW(tokenizer.piece(kSize), std::invalid_argument);
  EXPECT_EQ(tokenizer.piece(1), "<s>");
}

TEST_F(TokenizerTest, BosIsTheFoldersOrTheFamilys) {
  EXPECT_EQ(open(true).bos(), 1);
  EXPECT_EQ(open(false).bos(), std::nullopt);
  folder_.write("tokenizer_config.json", R"({"add_bos_token": false, "model_max_length": 1e30})");
  EXPECT_EQ(open(true).bos(), std::nullopt);
  folder_.write("tokenizer_config.json", R"({"add_bos_token": true})");
  EXPECT_EQ(open(false).bos(), 1);
  folder_.write("tokenizer_config.json", R"({"bos_token": "<s>"})");
  EXPECT_EQ(open(false).bos(), std::nullopt);
  folder_.write("tokenizer_config.json", R"({"add_bos_token": "yes"})");
  EXPECT_TRUE(contains(open_error(), "tokenizer_config.json: add_bos_token: expected true or false, got \"yes\""));
}

TEST_F(TokenizerTest, BosAndEosMustExist) {
  train_tokenizer(folder_.path(), kSize, {{"bos_id", "-1"}, {"eos_id", "-1"}});
  EXPECT_TRUE(contains(open_error(), "has no eos token"));
  EXPECT_EQ(open(true, 5).bos(), std::nullopt);
  folder_.write("tokenizer_config.json", R"({"add_bos_token": true})");
  EXPECT_TRUE(contains(open_error(5), "has no bos token"));
}

TEST_F(TokenizerTest, EosIsTheModelsOrTheTokenizers) {
  EXPECT_EQ(open().eos(), 2);
  EXPECT_EQ(open(true, 7).eos(), 7);
  EXPECT_TRUE(contains(open_error(kSize), "eos_token_id: expected an id below 500"));
}

TEST_F(TokenizerTest, RowsOfAModelEndInTheTokenizersEos) {
  const auto of = [&](const std::vector<int64_t>& ids) {
    return Tokenizer::of_model(folder_.path(), true, ids, kSize + 2);
  };
  const auto expect_eos = [&](const std::vector<int64_t>& ids, int32_t eos, const std::string& note) {
    const Tokenizer tokenizer = of(ids);
    EXPECT_EQ(tokenizer.eos(), eos);
    EXPECT_EQ(tokenizer.note().empty(), note.empty()) << tokenizer.note();
    EXPECT_TRUE(contains(tokenizer.note(), note));
    EXPECT_EQ(tokenizer.decode({eos}), "");
    EXPECT_EQ(tokenizer.piece(eos).empty(), false);
  };
  for (const std::vector<int64_t>& ids : {std::vector<int64_t>{}, {2}, {2, 10}}) expect_eos(ids, 2, "");
  expect_eos({1}, 2, ": rows end in 2 (</s>), but eos_token_id of config.json or generation_config.json is 1 (<s>)");
  expect_eos({0}, 2, "is 0 (<unk>)");
  expect_eos({kSize + 1, 2}, 2, "is 501 (not in tokenizer.model)");
  EXPECT_NE(of({}).fingerprint(), Tokenizer::open(folder_.path(), true, 1).fingerprint());
  EXPECT_EQ(of({1}).fingerprint(), Tokenizer::open(folder_.path(), true).fingerprint());

  for (const char* config : {R"({"eos_token": "<s>"})", R"({"eos_token": {"content": "<s>", "lstrip": false}})"}) {
    folder_.write("tokenizer_config.json", config);
    expect_eos({2}, 1, "rows end in 1 (<s>), but eos_token_id of config.json or generation_config.json is 2 (</s>)");
    EXPECT_EQ(open().eos(), 1);
    EXPECT_EQ(open(true, 2).eos(), 2);
  }
  for (const char* config : {R"({"eos_token": ""})", R"({"eos_token": null})", R"({"eos_token": "</s>"})"}) {
    folder_.write("tokenizer_config.json", config);
    expect_eos({2}, 2, "");
  }
  folder_.write("tokenizer_config.json", R"({"eos_token": 2})");
  EXPECT_TRUE(contains(open_error(), "tokenizer_config.json: eos_token: expected a text, got 2"));

  // A token that was added to the tokenizer, and to the embedding.
  folder_.write("tokenizer_config.json", R"({"eos_token": "<|im_end|>"})");
  expect_eos({2}, 2, "eos_token of tokenizer_config.json is <|im_end|>, which tokenizer.model does not have");
  folder_.write("added_tokens.json", R"({"<|im_end|>": 501, "<|im_start|>": 500, "odd": "x"})");
  expect_eos({501, 2}, 501, "rows end in 501 (<|im_end|>), but eos of tokenizer.model is 2 (</s>)");
  EXPECT_EQ(of({501}).piece(501), "<|im_end|>");
  EXPECT_THROW(of({501}).piece(500), std::invalid_argument);
  EXPECT_EQ(of({}).control_tokens(), (std::vector<std::string>{"<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"}));
  std::filesystem::remove(folder_.path() / "added_tokens.json");
  folder_.write("tokenizer_config.json",
                R"({"eos_token": "<|im_end|>", "added_tokens_decoder": {"502": {"content": "<|im_end|>"}, "x": 1}})");
  expect_eos({502, 2}, 2, "eos_token of tokenizer_config.json is <|im_end|>, id 502 beyond the embedding");

  std::filesystem::remove(folder_.path() / "tokenizer_config.json");
  train_tokenizer(folder_.path(), kSize, {{"eos_id", "-1"}});
  expect_eos({kSize, 7, 8}, 7, "is 500 (not in tokenizer.model)");
  EXPECT_TRUE(
      contains(error_of<UserError>([&] { of({kSize}); }), "eos_token_id of the model names none of its pieces"));
}

TEST_F(TokenizerTest, ASparePieceMayHaveAName) {
  const std::string spare = open().piece(kSize - 1);
  folder_.write(
      "tokenizer_config.json",
      R"({"eos_token": "<|im_end|>", "added_tokens_decoder": {"499": {"content": "<|im_end|>", "special": true}}})");
  const Tokenizer tokenizer = open();
  EXPECT_EQ(tokenizer.eos(), kSize - 1);
  EXPECT_EQ(tokenizer.piece(kSize - 1), "<|im_end|>");
  Tokens tokens;
  tokenizer.vocabulary().encode("a<|im_end|>", Spelling::kAsFile, tokens);
  EXPECT_EQ(tokens.ids.back(), kSize - 1);
  for (const std::string& text : {std::string("a<|im_end|>"), spare})
    for (const int32_t id : tokenizer.encode(text)) EXPECT_NE(id, kSize - 1) << text;
}

TEST_F(TokenizerTest, NamesWhatIsMissing) {
  std::filesystem::remove(folder_.path() / "tokenizer.model");
  EXPECT_TRUE(contains(open_error(), ": expected tokenizer.json or tokenizer.model, got neither"));
  folder_.write("tokenizer.json", "{}");
  EXPECT_TRUE(contains(open_error(), "tokenizer.json: model.vocab: expected an object of pieces and ids"));
}

TEST_F(TokenizerTest, EveryNormaliserOfSentencepieceLoads) {
  const std::string wide = "\xEF\xBC\xA1\xE2\x91\xA0";  // full-width A, circled 1
  const std::pair<const char*, std::string> cases[] = {
      {"nfkc", "A1"}, {"nmt_nfkc", "A1"}, {"nfkc_cf", "a1"}, {"nmt_nfkc_cf", "a1"}, {"identity", wide}};
  for (const auto& [rule, expected] : cases) {
    train_tokenizer(folder_.path(), kSize, {{"normalization_rule_name", rule}});
    const Tokenizer tokenizer = open();
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(wide)), expected) << rule;
    EXPECT_NO_THROW(tokenizer.encode(std::string(64 << 10, 'x'))) << rule;  // what it may make of a byte leaves room
  }
}

TEST_F(TokenizerTest, EveryTypeOfModelLoadsOrIsNamed) {
  for (const char* type : {"bpe", "unigram", "char"}) {
    train_tokenizer(folder_.path(), 360, {{"model_type", type}, {"hard_vocab_limit", "false"}});
    const Tokenizer tokenizer = open();
    EXPECT_EQ(tokenizer.decode(tokenizer.encode("the answer")), "the answer") << type;
  }
  train_tokenizer(folder_.path(), 360, {{"model_type", "word"}, {"hard_vocab_limit", "false"}});
  EXPECT_TRUE(contains(open_error(), "a text that spells the control token '<s>' cannot be encoded"));
}

TEST_F(TokenizerTest, ABrokenModelIsNamed) {
  const auto error_with = [&](const std::string& bytes) {
    folder_.write("tokenizer.model", bytes);
    return open_error();
  };
  EXPECT_TRUE(contains(error_with("version https://git-lfs.github.com/spec/v1\n"), "a git-lfs pointer"));
  EXPECT_TRUE(contains(error_with("not a model at all"), "tokenizer.model: not a sentencepiece model"));
  EXPECT_TRUE(contains(error_with(model_.substr(0, model_.size() / 2)), "not a sentencepiece model"));
  EXPECT_TRUE(contains(error_with(model_ + field(1, field(1, std::string(5000, 'x')))), "5000 bytes long"));
  EXPECT_TRUE(contains(error_with(model_ + field(1, field(1, "z") + real_field(2, std::nanf("")))), "not finite"));
  EXPECT_TRUE(contains(error_with(model_ + field(1, field(1, "a"))), "not a sentencepiece model"));  // twice
  const std::string wild_trie = std::string("\x04\x00\x00\x00\x00\xFC\xFF\x7F", 8) + std::string(8, '\0');
  EXPECT_TRUE(contains(error_with(model_ + field(3, field(2, wild_trie))), "normaliser table"));
}

TEST_F(TokenizerTest, DamagedModelsNeverCrash) {
  uint64_t state = 1;
  const auto random = [&](uint64_t limit) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % limit;
  };
  int opened = 0;
  for (int round = 0; round < 300; ++round) {
    std::string bytes = model_;
    for (uint64_t i = 0; i <= random(4); ++i) bytes[random(bytes.size())] = static_cast<char>(random(256));
    folder_.write("tokenizer.model", bytes);
    try {
      const Tokenizer tokenizer = open();
      tokenizer.decode(tokenizer.encode("What <s> 糖尿病\xFF"));
      ++opened;
    } catch (const UserError&) {
    }
  }
  EXPECT_GT(opened, 0);
}

TEST_F(TokenizerTest, EncodesFromSeveralThreads) {
  const Tokenizer tokenizer = open();
  const auto expected = tokenizer.encode(tiny_corpus()[4]);
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int k = 0; k < 200; ++k) ASSERT_EQ(tokenizer.encode(tiny_corpus()[4]), expected);
    });
}

}  // namespace
}  // namespace rankfold
