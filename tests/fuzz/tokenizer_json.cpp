// tokenizer.json: read, then a few texts there and back, whose ids and ranges must be in bounds.
#include "text/tokenizer_json.h"
#include "fuzz/fuzz.h"

#include <algorithm>
#include <stdexcept>

namespace rankfold::fuzz {

const char* const kName = "tokenizer_json";
const double kGrowthOfAByte = 60;  // a piece of two bytes with its id, in the lists and the tables

const std::vector<std::string>& file_names() {
  static const std::vector<std::string> names{"tokenizer.json"};
  return names;
}

namespace {

std::string file(const std::string& normalizer, const std::string& pre_tokenizer, const std::string& decoder,
                 const std::string& settings, const std::string& vocab, const std::string& merges,
                 const std::string& added) {
  return R"({"version":"1.0","truncation":null,"added_tokens":[)" + added + R"(],"normalizer":)" + normalizer +
         R"(,"pre_tokenizer":)" + pre_tokenizer + R"(,"post_processor":null,"decoder":)" + decoder +
         R"(,"model":{"type":"BPE",)" + settings + R"("vocab":{)" + vocab + R"(},"merges":[)" + merges + "]}}";
}

std::string added(const std::string& text, int id, const std::string& on) {
  std::string token = R"({"id":)" + std::to_string(id) + R"(,"content":")" + text + "\"";
  for (const std::string flag : {"single_word", "lstrip", "rstrip", "normalized", "special"})
    token += ",\"" + flag + "\":" + (on.find(flag) == std::string::npos ? "false" : "true");
  return token + "}";
}

const std::string kLetters =
    R"("<unk>":0,"<s>":1,"<0xC3>":2,"<0xA9>":3,"▁":4,"a":5,"b":6,"ab":7,"▁ab":8,"Ġ":9,"Ã":10,"©":11,"1":12,"'":13)";
const std::string kMerges = R"("a b",["▁","ab"])";
const std::string kAdded = added("<s>", 1, "special") + "," + added("<e>", 14, "special lstrip rstrip") + "," +
                           added("  ", 15, "normalized") + "," + added("word", 16, "single_word normalized");
const std::string kByteLevel = R"({"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true})";

std::string split(const std::string& pattern, const std::string& behavior) {
  return R"({"type":"Split","pattern":)" + pattern + R"(,"behavior":")" + behavior + R"(","invert":false})";
}

}  // namespace

std::vector<std::string> seeds() {
  const std::string unknown = R"("unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,)";
  const std::string replaces =
      R"({"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]})";
  const std::string fallback =
      R"({"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]})";
  const std::string metaspace = R"({"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":true})";
  const auto sequence = [](const std::string& parts) {
    return R"({"type":"Sequence","pretokenizers":[)" + parts + "]}";
  };
  const std::string regex = R"re({"Regex":"\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s+(?!\\S)"})re";
  const std::string known = R"({"Regex":"[0-9][0-9][0-9]"})";
  return {
      input(0, file(replaces, "null", fallback, unknown, kLetters, kMerges, kAdded)),
      input(0, file("null", metaspace, metaspace, unknown, kLetters, kMerges, kAdded)),
      input(0, file("null", kByteLevel, kByteLevel, R"("ignore_merges":true,)", kLetters, kMerges, kAdded)),
      input(0, file(R"({"type":"NFC"})", sequence(split(regex, "Isolated") + "," + kByteLevel), kByteLevel, "",
                    kLetters, kMerges, kAdded)),
      input(0, file("null",
                    sequence(R"({"type":"Punctuation","behavior":"Contiguous"},)" + kByteLevel +
                             R"(,{"type":"Digits","individual_digits":false},)" + split(known, "MergedWithPrevious")),
                    kByteLevel, R"("unk_token":"<unk>",)", kLetters, kMerges, kAdded)),
      input(0, file("null", split(R"({"String":" "})", "MergedWithNext"), "null", "", kLetters, kMerges, kAdded)),
  };
}

std::vector<Large> large_inputs(int count) {
  const auto numbered = [count](const std::function<std::string(int)>& one) { return repeated("", count, one, ""); };
  const auto pieces = numbered([](int i) { return "\"x" + std::to_string(i) + "\":" + std::to_string(i); });
  const auto of = [](const std::string& vocab, const std::string& merges, const std::string& added_tokens) {
    return input(0, file("null", kByteLevel, kByteLevel, "", vocab, merges, added_tokens));
  };
  return {
      {"pieces", of(pieces, "", "")},
      {"merges", of(kLetters, numbered([](int) { return "\"a b\""; }), "")},
      {"merges as pairs", of(kLetters, numbered([](int) { return "[\"a\",\"b\"]"; }), "")},
      {"added tokens", of(kLetters, "",
                          repeated(
                              "", count / 10, [](int i) { return added(std::to_string(i) + "<", 14 + i, ""); }, ""))},
      {"settings", input(0, "{\"model\":" + repeated(
                                                "[", count, [](int) { return "0"; }, "]}"))},
      {"keys", input(0, repeated(
                            "{", count, [](int i) { return "\"" + std::to_string(i) + "\":{}"; }, "}"))},
  };
}

namespace {

void expect(bool condition, const char* what) {
  if (!condition) throw std::logic_error(what);
}

void check(const Vocabulary& vocabulary, std::string_view text, Spelling spelling) {
  const Tokens tokens = vocabulary.encode(text, spelling);
  expect(tokens.ids.size() == tokens.ranges.size(), "as many ranges as ids");
  for (const int32_t id : tokens.ids) expect(id >= 0 && id < vocabulary.size(), "an id of the vocabulary");
  for (const TextRange& range : tokens.ranges)
    expect(range.begin <= range.end && range.end <= text.size(), "a range of the text");
  vocabulary.decode(tokens.ids, Controls::kShown);
}

void parse(const std::filesystem::path& path) {
  const auto vocabulary = read_tokenizer_json(path);
  for (const std::string& text :
       {std::string(), std::string("ab  <s>ab<e> \n"),
        std::string("e\xCC\x81 \xC3\xA9 word 12345 'll \xF0\x9F\x98\x80"), std::string("\xE2\x96\x81  <e>  <e>word"),
        std::string(300, 'a') + std::string(100, ' ')})
    for (const Spelling spelling : {Spelling::kAsFile, Spelling::kUserText}) check(*vocabulary, text, spelling);
  std::vector<int32_t> all;
  for (int32_t id = 0; id < std::min<int64_t>(vocabulary->size(), 2000); ++id) all.push_back(id);
  vocabulary->decode(all);
}

}  // namespace
}  // namespace rankfold::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const rankfold::fuzz::Folder folder = [] {
    rankfold::fuzz::Folder made;
    made.write("tokenizer.json", "{}");
    return made;
  }();
  return folder.with_input(data, size,
                           [](const std::string&) { rankfold::fuzz::parse(folder.path() / "tokenizer.json"); });
}
