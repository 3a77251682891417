// Rows of a data set, and JSON files of any content.
#include "core/json.h"
#include "fuzz/fuzz.h"
#include "rankfold/dataset.h"

#include <nlohmann/json.hpp>

namespace rankfold::fuzz {

const char* const kName = "data";

const std::vector<std::string>& file_names() {
  static const std::vector<std::string> names{"rows.jsonl", "value.json"};
  return names;
}

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
      input(1, R"({"a":[1,-2,2.5e-3,"x\u00e9\\\"",null,true,false],"b":{"c":{"d":[[[]]]}},"e":18446744073709551615})"),
      input(1, "\"a text\""),
      input(1, "-0.5E+10"),
  };
}

namespace {

struct Sound : Folder {
  Sound() {
    write("tokenizer.model", tokenizer_model(2, true));
    write("rows.jsonl", "{\"text\":\"a\"}");
    write("value.json", "{}");
  }
};

void parse(const std::filesystem::path& path) {
  static const Tokenizer tokenizer = Tokenizer::open(path, true, -1);
  DataConfig config;
  config.max_length = 40;
  const Dataset rows = Dataset::open(path / "rows.jsonl", &tokenizer, config, tokenizer.size());
  for (int64_t i = 0; i < rows.size(); ++i) (void)rows[i];
  (void)read_json(path / "value.json").dump(-1, ' ', true);
}

}  // namespace
}  // namespace rankfold::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const rankfold::fuzz::Sound folder;
  return folder.with_input(data, size, [] { rankfold::fuzz::parse(folder.path()); });
}
