#include "text/tokenizer_json.h"

#include "rankfold/error.h"
#include "support/temp_folder.h"
#include "text/byte_level.h"
#include "text/normalizer.h"
#include "text/pattern.h"
#include "text/tokenizer_file.h"
#include "text/unicode.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <atomic>
#include <ctime>
#include <fstream>
#include <functional>
#include <random>
#include <set>
#include <thread>

namespace rankfold {
namespace {

using nlohmann::json;

std::string byte_piece(unsigned char byte) {
  std::string piece;
  unicode::append(kByteLevel.character[byte], piece);
  return piece;
}

json added(const std::string& text, int id, bool special = true) {
  return {{"id", id},        {"content", text},     {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

// All bytes, a few merges, and two added tokens: ids 0 to 255, then "th", "the", "he", " the", then the added ones.
json byte_level_file() {
  json vocab = json::object();
  for (int byte = 0; byte < 256; ++byte) vocab[byte_piece(static_cast<unsigned char>(byte))] = byte;
  for (const char* piece : {"th", "the", "he", "\xC4\xA0the"}) vocab[piece] = vocab.size();
  return {{"version", "1.0"},
          {"added_tokens", {added("<|end|>", 260), added("<think>", 261, false)}},
          {"normalizer", nullptr},
          {"pre_tokenizer",
           {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
          {"model",
           {{"type", "BPE"},
            {"unk_token", nullptr},
            {"vocab", vocab},
            {"merges", {"t h", "th e", {"h", "e"}, "\xC4\xA0 the"}}}}};
}

// <unk>, bytes, U+2581, letters; the pipeline of LLaMA-2.
json byte_fallback_file() {
  json vocab = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}};
  constexpr char kDigits[] = "0123456789ABCDEF";
  for (int byte = 0; byte < 256; ++byte)
    vocab[std::string("<0x") + kDigits[byte >> 4] + kDigits[byte & 15] + ">"] = vocab.size();
  for (const char* piece : {"\xE2\x96\x81", "a", "b", "ab",
                            "\xE2\x96\x81"
                            "ab"})
    vocab[piece] = vocab.size();
  const auto replace = [](const char* what, const char* by) {
    return json{{"type", "Replace"}, {"pattern", {{"String", what}}}, {"content", by}};
  };
  return {{"added_tokens", {added("<unk>", 0), added("<s>", 1), added("</s>", 2)}},
          {"normalizer",
           {{"type", "Sequence"},
            {"normalizers", {{{"type", "Prepend"}, {"prepend", "\xE2\x96\x81"}}, replace(" ", "\xE2\x96\x81")}}}},
          {"post_processor",
           {{"type", "TemplateProcessing"},
            {"single",
             {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
            {"pair", json::array()},
            {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {1}}, {"tokens", {"<s>"}}}}}}}},
          {"decoder",
           {{"type", "Sequence"},
            {"decoders",
             {replace("\xE2\x96\x81", " "),
              {{"type", "ByteFallback"}},
              {{"type", "Fuse"}},
              {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}}},
          {"model",
           {{"type", "BPE"},
            {"unk_token", "<unk>"},
            {"fuse_unk", true},
            {"byte_fallback", true},
            {"vocab", vocab},
            {"merges", {"a b", "\xE2\x96\x81 ab"}}}}};
}

class TokenizerJson : public ::testing::Test {
 protected:
  std::shared_ptr<const Vocabulary> read(const std::string& text) {
    std::ofstream(path_, std::ios::binary) << text;
    return read_tokenizer_json(path_);
  }
  std::shared_ptr<const Vocabulary> read(const json& file) { return read(file.dump()); }

  // The error's line without the file's name.
  std::string refusal(const std::string& text) {
    try {
      read(text);
    } catch (const UserError& error) {
      const std::string line = error.what(), name = path_.string();
      EXPECT_EQ(line.substr(0, name.size()), name);
      return line.substr(std::min(line.size(), name.size() + 2));
    }
    return "accepted";
  }
  // Of the byte-level file with one value changed.
  std::string refusal(const char* pointer, const json& value) {
    json file = byte_level_file();
    file[json::json_pointer(pointer)] = value;
    return refusal(file.dump());
  }

  testing::TempFolder folder_;
  std::filesystem::path path_ = folder_.path() / "tokenizer.json";
};

using Ids = std::vector<int32_t>;

TEST_F(TokenizerJson, EncodesAndDecodesBytes) {
  const auto vocabulary = read(byte_level_file());
  const Tokens tokens = vocabulary->encode("the the\xC3\xA9<|end|>", Spelling::kAsFile);
  EXPECT_EQ(tokens.ids, (Ids{257, 259, 0xC3, 0xA9, 260}));
  const std::vector<TextRange> ranges = {{0, 3}, {3, 7}, {7, 9}, {7, 9}, {9, 16}};
  EXPECT_EQ(tokens.ranges, ranges);
  EXPECT_EQ(vocabulary->decode(tokens.ids), "the the\xC3\xA9");
  EXPECT_EQ(vocabulary->decode(tokens.ids, Controls::kShown), "the the\xC3\xA9<|end|>");
  EXPECT_EQ(vocabulary->size(), 262);
  EXPECT_EQ(vocabulary->piece(259), "\xC4\xA0the");
  EXPECT_EQ(vocabulary->piece(262), "");
  EXPECT_EQ(vocabulary->piece(-1), "");
  EXPECT_EQ(vocabulary->id_of("<think>"), 261);
  EXPECT_EQ(vocabulary->id_of("no"), std::nullopt);
}

TEST_F(TokenizerJson, UserTextGivesNoControlToken) {
  const auto vocabulary = read(byte_level_file());
  const std::string text = "<|end|><think>";
  EXPECT_EQ(vocabulary->encode(text, Spelling::kAsFile).ids, (Ids{260, 261}));
  EXPECT_EQ(vocabulary->encode(text, Spelling::kUserText).ids, (Ids{'<', '|', 'e', 'n', 'd', '|', '>', 261}));
  EXPECT_TRUE(vocabulary->is_control(260));
  EXPECT_FALSE(vocabulary->is_control(261));

  const auto stricter = vocabulary->with_control({261, 257});
  EXPECT_TRUE(stricter->is_control(261));
  EXPECT_EQ(stricter->encode("<think>the", Spelling::kAsFile).ids, (Ids{261, 257}));
  EXPECT_EQ(stricter->encode("<think>the the", Spelling::kUserText).ids,
            (Ids{'<', 256, 'i', 'n', 'k', '>', 256, 'e', ' ', 256, 'e'}))
      << "no merge makes a control token";
  EXPECT_NE(stricter->fingerprint(), vocabulary->fingerprint());
  EXPECT_THROW(vocabulary->with_control({262}), UserError);
  EXPECT_FALSE(vocabulary->with_control({'a'})->is_control('a'));
}

TEST_F(TokenizerJson, TakesControlTokensFromTheTemplateAlone) {
  const auto vocabulary = read(byte_level_file());
  const std::string text = "<|end|>a<|end|>";
  const auto ids = [&](std::vector<TextRange> users) {
    Tokens tokens;
    vocabulary->encode(text, users, tokens);
    return tokens.ids;
  };
  const Ids spelt = vocabulary->encode("<|end|>", Spelling::kUserText).ids;
  Ids first_is_text = spelt, last_is_text = {260, 'a'};
  first_is_text.insert(first_is_text.end(), {'a', 260});
  last_is_text.insert(last_is_text.end(), spelt.begin(), spelt.end());
  EXPECT_EQ(ids({}), (Ids{260, 'a', 260}));
  EXPECT_EQ(ids({{0, 7}}), first_is_text);
  EXPECT_EQ(ids({{6, 8}}), first_is_text) << "one byte of it is a person's";
  EXPECT_EQ(ids({{7, 8}}), (Ids{260, 'a', 260}));
  EXPECT_EQ(ids({{7, 8}, {10, 11}}), last_is_text);

  // Words that would become one by merges alone: "the" is no added token.
  const auto stricter = vocabulary->with_control({257});
  Tokens tokens;
  const TextRange user{3, 6};
  stricter->encode("the<|end|>", {}, tokens);
  EXPECT_EQ(tokens.ids, (Ids{257, 260}));
  stricter->encode("<|end|>the<|end|>the", std::vector<TextRange>{{7, 10}}, tokens);
  EXPECT_EQ(tokens.ids, (Ids{260, 256, 'e', 260, 257}));
  stricter->encode("theth", std::vector<TextRange>{user}, tokens);
  EXPECT_EQ(tokens.ids, (Ids{256, 'e', 256}));
}

TEST_F(TokenizerJson, FallsBackToBytes) {
  const auto vocabulary = read(byte_fallback_file());
  const Tokens tokens = vocabulary->encode("ab \xC3\xA9", Spelling::kUserText);
  const int32_t mark = 259;
  EXPECT_EQ(tokens.ids, (Ids{mark + 4, mark, 3 + 0xC3, 3 + 0xA9}));
  const std::vector<TextRange> ranges = {{0, 2}, {2, 3}, {3, 5}, {3, 5}};
  EXPECT_EQ(tokens.ranges, ranges);
  EXPECT_EQ(vocabulary->decode(tokens.ids), "ab \xC3\xA9");
  EXPECT_EQ(vocabulary->before(), Ids{1});
  EXPECT_EQ(vocabulary->after(), Ids{});
}

TEST_F(TokenizerJson, DecodesOneByOne) {
  const auto bytes = read(byte_level_file());
  const auto one = bytes->decoder(Controls::kHidden);
  EXPECT_EQ(one->push(0xE2), "");
  EXPECT_EQ(one->push(0x82), "");
  EXPECT_EQ(one->push(0xAC), "\xE2\x82\xAC");
  EXPECT_EQ(one->push(0xE2), "");
  EXPECT_EQ(one->push(260), "") << "a control token does not end a character";
  EXPECT_EQ(one->push('a'),
            "\xEF\xBF\xBD"
            "a");
  EXPECT_EQ(one->push(0xF0), "");
  EXPECT_EQ(one->finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(one->push(1000), "");
  EXPECT_EQ(one->finish(), "");

  const auto fallback = read(byte_fallback_file());
  const auto other = fallback->decoder(Controls::kHidden);
  EXPECT_EQ(other->push(259), "") << "the first space of a text is dropped";
  EXPECT_EQ(other->push(3 + 'x'), "");
  EXPECT_EQ(other->push(3 + 0xC3), "");
  EXPECT_EQ(other->push(260),
            "\xEF\xBF\xBD\xEF\xBF\xBD"
            "a")
      << "one bad byte spoils the run";
  EXPECT_EQ(other->push(259), " ");
  EXPECT_EQ(other->push(3 + 0xC3), "");
  EXPECT_EQ(other->push(3 + 0xA9), "");
  EXPECT_EQ(other->finish(), "\xC3\xA9");
  EXPECT_EQ(other->push(259), "");
}

TEST_F(TokenizerJson, FingerprintIsOfWhatChangesIds) {
  const auto plain = read(byte_level_file())->fingerprint();
  EXPECT_EQ(read(byte_level_file())->fingerprint(), plain);
  json file = byte_level_file();
  file["truncation"] = {{"max_length", 512}};
  EXPECT_EQ(read(file)->fingerprint(), plain);
  std::set<uint64_t> others = {plain};
  const auto changed = [&](const char* pointer, const json& value) {
    json other = byte_level_file();
    other[json::json_pointer(pointer)] = value;
    return others.insert(read(other)->fingerprint()).second;
  };
  EXPECT_TRUE(changed("/normalizer", {{"type", "NFC"}}));
  EXPECT_TRUE(changed("/pre_tokenizer/use_regex", false));
  EXPECT_TRUE(changed("/added_tokens/1/special", true));
  EXPECT_TRUE(changed("/added_tokens/1/rstrip", true));
  EXPECT_TRUE(changed("/model/ignore_merges", true));
  EXPECT_TRUE(changed("/model/merges/0", "h e"));
  EXPECT_TRUE(changed("/model/merges", {"th e", "t h"}));
}

TEST_F(TokenizerJson, RefusesByName) {
  EXPECT_EQ(refusal("/model/type", "WordPiece"), "model.type: expected BPE, got \"WordPiece\"");
  EXPECT_EQ(refusal("/model/vocab", json::array({json::array({"a", -1.5})})),
            "model.vocab: expected an object of pieces and ids, as BPE models have, got a list; only BPE is supported");
  EXPECT_EQ(refusal("/model/dropout", 0.1), "model.dropout: expected null or 0, got 0.1");
  EXPECT_EQ(refusal("/model/end_of_word_suffix", "</w>"),
            "model.end_of_word_suffix: expected null or \"\", got \"</w>\"");
  EXPECT_EQ(refusal("/model/new", 1), "model.new: a setting that is not known, with the value 1");
  EXPECT_EQ(refusal("/new", 1), "new: a setting that is not known, with the value 1");
  EXPECT_EQ(refusal("/normalizer", {{"type", "BertNormalizer"}}),
            "normalizer.type: expected NFC, Prepend, Replace or Sequence, got \"BertNormalizer\"");
  EXPECT_EQ(refusal("/pre_tokenizer", {{"type", "BertPreTokenizer"}}),
            "pre_tokenizer.type: expected Split, ByteLevel, Digits, Punctuation, Metaspace or Sequence, got "
            "\"BertPreTokenizer\"");
  EXPECT_EQ(refusal("/decoder", {{"type", "CTC"}}),
            "decoder.type: expected ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace or Sequence, got \"CTC\"");
  EXPECT_EQ(refusal("/post_processor", {{"type", "RobertaProcessing"}}),
            "post_processor.type: expected TemplateProcessing, ByteLevel or Sequence, got \"RobertaProcessing\"");
  EXPECT_EQ(refusal("/pre_tokenizer/use_regex", "yes"), "pre_tokenizer.use_regex: expected true or false, got \"yes\"");
  EXPECT_EQ(
      refusal("/added_tokens/1/id", 300),
      "added_tokens[1].id: expected 261, the next id after model.vocab and the tokens before, for \"<think>\", got "
      "300");
  EXPECT_EQ(refusal("/added_tokens/1/content", "<|end|>"), "added_tokens[1].content: \"<|end|>\" is given twice");
  EXPECT_EQ(refusal("/added_tokens/1/content", ""),
            "added_tokens[1].content: expected a text of 1 to 512 bytes, got \"\"");
  EXPECT_EQ(refusal("/added_tokens/1", added("a", 'a')),
            "added_tokens: \"a\" stands for a byte, so it cannot be special");
  EXPECT_EQ(refusal("/model/merges/0", "t  h"),
            "model.merges[0]: expected two pieces with one space between, got \"t  h\"");
  EXPECT_EQ(refusal("/model/merges/0", {"t"}), "model.merges[0]: expected two pieces, as \"a b\" or [\"a\", \"b\"]");
  EXPECT_EQ(refusal("/model/merges/0", "t x"), "model.merges[0]: expected pieces of model.vocab, got \"tx\"");
  EXPECT_EQ(refusal("/model/vocab/th", 5), "model.vocab: pieces \"th\" and \"\\u0105\" have one id, 5");
  EXPECT_EQ(refusal("/model/vocab/th", 1 << 20),
            "model.vocab: piece \"th\": expected an id below 1048576, got 1048576");
  EXPECT_EQ(refusal("/model/vocab/th", (1 << 20) - 1),
            "model.vocab: expected ids below 66576 for 260 pieces, got 1048575");
  EXPECT_EQ(refusal("/model/vocab/th", -1), "model.vocab: piece \"th\": expected an id, got -1");
  EXPECT_EQ(refusal(("/model/vocab/" + std::string(3000, 'x')).c_str(), 262),
            "model.vocab: a piece of 3000 bytes; at most 2048 are supported");
  EXPECT_EQ(refusal("{}"), "model.vocab: expected an object of pieces and ids, as BPE models have, got none");
  EXPECT_EQ(refusal("[]"), "expected an object");
  EXPECT_EQ(refusal("{\"model\":{\"vocab\":{},\"vocab\":{}}}"), "key \"vocab\" is given twice");
  EXPECT_EQ(refusal("{\"model\""), "not JSON (byte 9 of 8)");
  EXPECT_EQ(refusal(std::string(40, '[')), "nested deeper than 32 levels");
}

TEST_F(TokenizerJson, RefusesRegexesThatDiffer) {
  const auto regex = [this](const char* text) {
    return refusal("/pre_tokenizer",
                   {{"type", "Split"}, {"pattern", {{"Regex", text}}}, {"behavior", "Isolated"}, {"invert", false}});
  };
  for (const char* text :
       {R"(\w+)", R"(\bx)", "^a",    "a$",     R"([a&&b])",       R"([[:alpha:]])", "(?i:ss)", "(?i)a", R"(\h)",
        "a**",    "a{2}+",  "a{2}?", "a{,2}",  R"((a)\1)",        "(?<x>a)",        R"(\xff)", "(a",    "a)",
        "[a",     "*",      "(?#x)", "(*UCP)", R"(\p{Nonsense})", R"([\S])",        "a*",      "(?=a)", ""})
    EXPECT_NE(regex(text), "accepted") << text;
  EXPECT_EQ(regex(R"(\w+)"),
            R"(pre_tokenizer.pattern.Regex: "\\w+" is not a regular expression that is supported (byte 1: '\w'))");
  EXPECT_EQ(regex("a*"), "pre_tokenizer.pattern.Regex: \"a*\" may match no characters at all, which is not supported");
  EXPECT_EQ(regex(R"(\p{Han}+|\s+(?!\S)|[\u4e00-\u9fa5]++|\x{41}{1,3})"), "accepted");
}

// Characters that PCRE2 knows, so that its tables and ours must agree.
std::vector<uint32_t> known_characters() {
  const Pattern known = Pattern::of_regex("test", R"(\P{Cn}+)");
  std::string all;
  for (uint32_t c = 1; c < unicode::kCharacters; ++c)
    if (c < 0xD800 || c > 0xDFFF) unicode::append(c, all);
  std::vector<Match> parts;
  known.find(all, parts);
  std::vector<uint32_t> characters;
  for (const Match& part : parts)
    for (uint32_t i = part.begin, length = 0; part.is_match && i < part.end; i += length)
      characters.push_back(unicode::character_at(all.data() + i, length));
  return characters;
}

TEST(Scanners, FindWhatPcre2Finds) {
  const std::vector<uint32_t> characters = known_characters();
  ASSERT_GT(characters.size(), 270'000u);
  constexpr std::string_view kOften = "  \n\r\t''sStTrReEvVmMlLdDaAbB019.,!?/#(";
  const uint32_t more[] = {0x17F,  0xA0,   0x3000, 0x301, 0x1C5, 0x2B0, 0x4E00,
                           0x9FA5, 0x3042, 0x30FF, 0xBD,  0x661, 0x180E};
  std::mt19937 random(3);
  std::vector<std::string> texts;
  for (int i = 0; i < 4000; ++i) {
    std::string text;
    for (unsigned k = random() % 24; k > 0; --k) {
      const unsigned kind = random() % 8;
      if (kind < 5)
        text += kOften[random() % kOften.size()];
      else if (kind == 5)
        unicode::append(more[random() % std::size(more)], text);
      else
        unicode::append(characters[random() % (kind == 6 ? 3000 : characters.size())], text);
    }
    texts.push_back(text);
  }
  for (const std::string_view regex : known_regexes()) {
    ASSERT_NE(known_scanner(regex), nullptr);
    const Pattern ours = Pattern::of_regex("test", std::string(regex));
    const Pattern theirs = Pattern::of_regex("test", std::string(regex), Pattern::By::kPcre2);
    std::vector<Match> found, expected;
    for (const std::string& text : texts) {
      ours.find(text, found);
      theirs.find(text, expected);
      ASSERT_TRUE(std::equal(found.begin(), found.end(), expected.begin(), expected.end(),
                             [](const Match& a, const Match& b) {
                               return a.begin == b.begin && a.end == b.end && a.is_match == b.is_match;
                             }))
          << regex << "\n"
          << json(text).dump(-1, ' ', true);
    }
  }
}

// Of the processor: other programs may run beside this one.
double seconds_of(const std::function<void()>& work) {
  const std::clock_t begin = std::clock();
  work();
  return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
}

// A text of one word: eight times the length takes about eight times the time, not 64 times.
TEST_F(TokenizerJson, LongWordsTakeLinearTime) {
  const std::string word = "thehethhe";
  for (const json& file : {byte_level_file(), byte_fallback_file()}) {
    const auto vocabulary = read(file);
    std::string text, longer;
    while (text.size() < 100'000) text += file["normalizer"].is_null() ? word : "abba";
    for (int i = 0; i < 8; ++i) longer += text;
    Tokens tokens;
    const double once = seconds_of([&] { vocabulary->encode(text, Spelling::kAsFile, tokens); });
    const double eight_times = seconds_of([&] { vocabulary->encode(longer, Spelling::kAsFile, tokens); });
    EXPECT_LT(eight_times, 30 * once + 0.5);
  }
}

TEST_F(TokenizerJson, HostileAddedTokensTakeLinearTime) {
  json file = byte_level_file();
  file["added_tokens"][1]["content"] = " ";
  file["added_tokens"][1]["rstrip"] = true;
  file["added_tokens"][1]["lstrip"] = true;
  file["added_tokens"].push_back(added(std::string(500, 'a') + "b", 262));
  const auto vocabulary = read(file);
  const double blanks = seconds_of([&] { vocabulary->encode(std::string(200'000, ' '), Spelling::kAsFile); });
  const double letters = seconds_of([&] { vocabulary->encode(std::string(50'000, 'a'), Spelling::kAsFile); });
  EXPECT_LT(blanks + letters, 5);
}

TEST_F(TokenizerJson, RefusesTexts) {
  const auto vocabulary = read(byte_level_file());
  EXPECT_THROW(vocabulary->encode("a\xFF", Spelling::kAsFile), UserError);
  EXPECT_THROW(vocabulary->encode("\xED\xA0\x80", Spelling::kAsFile), UserError);
  EXPECT_THROW(vocabulary->encode(std::string(kLongestInput + 1, 'a'), Spelling::kAsFile), UserError);
  EXPECT_TRUE(vocabulary->encode("", Spelling::kAsFile).ids.empty());
  json file = byte_fallback_file();
  file["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(64, 'b')}};
  EXPECT_THROW(read(file)->encode(std::string(kLongestInput / 8, 'a'), Spelling::kAsFile), UserError);
}

TEST_F(TokenizerJson, ThreadsShareIt) {
  const auto vocabulary = read(byte_level_file());
  const auto text_of = [](int i) {
    return "the \xE4\xB8\xAD " + std::to_string(i * 7919) + " he" + std::string(static_cast<size_t>(i % 90), 't') +
           "h<think>";
  };
  std::vector<Ids> expected;
  const auto alone = read(byte_level_file());
  for (int i = 0; i < 2000; ++i) expected.push_back(alone->encode(text_of(i), Spelling::kUserText).ids);
  std::atomic<int> wrong = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        for (int i = t; i < 2000; i += 2)
          wrong += vocabulary->encode(text_of(i), Spelling::kUserText).ids != expected[static_cast<size_t>(i)];
      });
  }
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace rankfold
