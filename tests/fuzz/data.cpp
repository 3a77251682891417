// Rows of a data set, also where broken ones are left out and columns are named; a cache of tokens; prompt_template.json;
// JSON of any content.
#include "core/check.h"
#include "core/config.h"
#include "core/json.h"
#include "data/template.h"
#include "data/token_store.h"
#include "fuzz/fuzz.h"
#include "rankfold/dataset.h"

#include <unistd.h>
#include <nlohmann/json.hpp>

#include <array>
#include <fstream>
#include <iterator>

namespace rankfold::fuzz {

const char* const kName = "data";
const double kGrowthOfAByte = 240;  // which is what sentencepiece takes for a text

const std::vector<std::string>& file_names() {
  static const std::vector<std::string> names{"rows.jsonl", "some.rows", "store.tokens", "prompt_template.json",
                                              "value.json"};
  return names;
}

namespace {

constexpr int64_t kVocabulary = 269;
constexpr const char* kKey = "of the fuzzer";

std::string store() {
  const auto path = std::filesystem::temp_directory_path() / ("rankfold-fuzz-store-" + std::to_string(::getpid()));
  TokenWriter writer(path, kKey);
  writer.append(1, std::array{5, 6, 7}, std::array{-100, 6, 7});
  writer.append(3, std::array{8, 9}, std::array{9, -100});
  writer.append(4, std::array{2}, std::array{2});
  writer.finish({{.rows = 4, .longest = 3}, 1});
  std::ifstream file(path, std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  std::filesystem::remove(path);
  return bytes;
}

}  // namespace

std::vector<std::string> seeds() {
  return {
      input(0, R"([{"question":"the bath?","answer":"a the"},{"question":"a\nb\u00e9","answer":"\ud83d\ude00"}])"),
      input(0, "{\"input_ids\":[1,5,6,2],\"labels\":[-100,-100,6,2]}\n\n{\"input_ids\":[3,4]}\n"),
      input(0,
            "\xEF\xBB\xBF{\"version\":1,\"data\":[{\"instruction\":\"a\",\"input\":\"b\",\"output\":\"c\"},\r\n"
            "{\"instruction\":\"a\",\"input\":null,\"output\":\"the\"}]}"),
      input(0,
            "{\"text\":\"the \xE7\xB3\x96 <s>\"}\n{\"query\":\"a\",\"response\":\"b\"}\n"
            "{\"prompt\":\"a\",\"completion\":\"b\"}"),
      input(1, R"([{"ask":"the bath?","reply":"a the"}, 1, {"ask":5}, {x}, {"ask":"a","reply":"b"}, "x"])"),
      input(1, "{\"ask\":\"a\",\"reply\":\"b\"}\n{\"ask\":\n[]\n{\"ask\":\"the\",\"reply\":\"b\"}\n{\"ask\":\"cut of"),
      input(0,
            R"({"input_ids":[0,5,6],"attention_mask":[0,1,1],"position_ids":[0,0,1],"token_type_ids":[0,0,0],"x":1})"),
      input(1,
            "\xEF\xBB\xBF{\"\xEF\xBB\xBF"
            "ask\":\"a\",\"reply\":\"b </s>\",\"id\":1}\n{\"ask\":\"\xE6(\",\"reply\":\"b\"}"),
      input(0, R"({"question":"a","answer":"b","messages":[{"role":"user","content":"a"}],"history":[]})"
               "\n"
               R"({"question":"c","answer":"d","system":"","history":null})"),
      input(2, store()),
      input(3, R"({"prompt_template":"Q: {question}\n{question} A:"})"),
      input(3, R"({"prompt_template":"{\"a\": 1} \\boxed{answer} {question}\\n{input} {{"})"),
      input(4, R"({"a":[1,-2,2.5e-3,"x\u00e9\\\"",null,true,false],"b":{"c":{"d":[[[]]]}},"e":18446744073709551615})"),
      input(4, "\"a text\""),
      input(4, "-0.5E+10"),
  };
}

std::vector<Large> large_inputs(int count) {
  const auto same = [](const char* text) { return [text](int) { return std::string(text); }; };
  const auto key = [](int i) { return "\"" + std::to_string(i) + "\":0"; };
  const std::string row = R"({"text":"the"})", named = R"({"ask":"a","reply":"b"})";
  return {
      {"rows of an array", input(0, repeated("[", count, same(R"({"text":"the"})"), "]"))},
      {"lines", input(0, repeated("", count, same(R"({"text":"the"})"), "", "\n"))},
      {"numbers for rows", input(0, repeated("[", 10 * count, same("1"), "]"))},
      {"numbers for lines", input(0, repeated(row + "\n", 10 * count, same("1"), "", "\n"))},
      {"empty rows", input(0, repeated("[", 10 * count, same("{}"), "]"))},
      {"open brackets", input(0, repeated("", 10 * count, same("["), "", ""))},
      {"open objects", input(0, repeated("", count, same("{\"a\":"), "", ""))},
      {"ids", input(0, repeated("{\"input_ids\":[", count, same("7"), "]}"))},
      {"keys of a row", input(0, repeated("{\"text\":\"a\",", count, key, "}"))},
      {"keys around the rows", input(0, repeated("{", count, key, ",\"data\":[" + row + "]}"))},
      {"arrays around the rows", input(0, repeated("{\"x\":", count, same("[{"), "}]}", ""))},
      {"letters", input(0, "{\"text\":\"" + std::string(1 << 16, 'a') + "\"}")},
      {"too many letters", input(0, "{\"text\":\"" + std::string(4 << 20, 'a') + "\"}")},
      {"quotes", input(0, repeated("{\"text\":\"", count, same("\\\""), "\"}", ""))},
      {"bad rows of a line", input(1, repeated("[" + named + ",", count / 10, same("{x}      "), "]"))},
      {"bad lines", input(1, repeated(named + "\n", count / 10, same("{\"ask\":"), "", "\n"))},
      {"zeros of a store", input(2, std::string(40 * static_cast<size_t>(count), '\0'))},
      {"braces in a template",
       input(3, repeated(R"({"prompt_template":"{question})", count / 2, same("{ "), "\"}", ""))},
      {"columns that are not used",
       input(0, repeated(
                    "{\"text\":\"a\",", count, [](int i) { return "\"" + std::to_string(i) + "\":1"; }, "}"))},
      {"places in a template", input(3, repeated(R"({"prompt_template":")", count, same("{question}"), "\"}", ""))},
      {"keys", input(4, repeated("{", count, key, "}"))},
      {"values", input(4, repeated("[", 10 * count, same("0"), "]"))},
      {"empty objects", input(4, repeated("[", 5 * count, same("{}"), "]"))},
      {"digits", input(4, std::string(10 * static_cast<size_t>(count), '9'))},
  };
}

namespace {

struct Sound : Folder {
  Sound() { write("tokenizer.model", tokenizer_model({.byte_fallback = true})); }
};

void parse(const std::filesystem::path& folder, const std::string& name) {
  static const Tokenizer tokenizer = Tokenizer::open(folder, true, -1);
  const std::filesystem::path path = folder / name;
  DataConfig config;
  config.max_length = 40;
  if (name == "some.rows") {
    config.skip_bad_rows = true;
    config.columns = {{"question", "ask"}, {"answer", "reply"}};
  }
  if (name == "prompt_template.json") {
    read_fields(read_json(path), path.string(), config, /*unknown_is_error=*/true);
    if (const std::string defect = template_defect(config.prompt_template); !defect.empty())
      judge_line(one_line(defect));
    encode_prompt(tokenizer, config.prompt_template, "the bath");
  } else if (name == "value.json") {
    const std::string text = read_json(path).dump(-1, ' ', true);
    if (wants_result) verdict.result = text;
  } else if (name == "store.tokens") {
    const TokenStore store = TokenStore::open(path, kKey);
    for (int64_t i = 0; i < store.size(); ++i) (void)(store[i].labels.size() + static_cast<size_t>(store.number(i)));
  } else {
    const Dataset rows = Dataset::open(path, &tokenizer, config, kVocabulary);
    for (int64_t i = 0; i < rows.size(); ++i) (void)rows[i];
    for (const std::string& line : rows.bad_rows()) judge_line(line);
  }
}

}  // namespace
}  // namespace rankfold::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const rankfold::fuzz::Sound folder;
  return folder.with_input(data, size, [](const std::string& name) { rankfold::fuzz::parse(folder.path(), name); });
}
