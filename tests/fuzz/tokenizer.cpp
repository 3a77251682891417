// tokenizer.model through our checks and sentencepiece, then a few texts there and back; tokenizer_config.json.
#include "rankfold/tokenizer.h"
#include "fuzz/fuzz.h"

namespace rankfold::fuzz {

const char* const kName = "tokenizer";

const std::vector<std::string>& file_names() {
  static const std::vector<std::string> names{"tokenizer.model", "tokenizer_config.json"};
  return names;
}

std::vector<std::string> seeds() {
  constexpr int kUnigram = 1, kBpe = 2;
  return {
      input(0, tokenizer_model(kBpe, true)),
      input(0, tokenizer_model(kBpe, false)),
      input(0, tokenizer_model(kUnigram, false)),
      input(0, tokenizer_model(kBpe, false, normaliser_table())),
      input(0, tokenizer_model(kUnigram, true, normaliser_table())),
      input(1, R"({"add_bos_token":true,"add_eos_token":false,"bos_token":"<s>","model_max_length":1e+30})"),
      input(1, R"({"add_bos_token":null,"added_tokens_decoder":{"0":{"content":"<unk>","special":true}}})"),
  };
}

namespace {

struct Sound : Folder {
  Sound() {
    write("tokenizer.model", tokenizer_model(2, true));
    write("tokenizer_config.json", "{}");
  }
};

void parse(const std::filesystem::path& path) {
  const Tokenizer tokenizer = Tokenizer::open(path, true, -1);
  for (const char* text : {"the bath", "", "A <s> the\xE7\xB3\x96\xFF\t the", "<0x41></s>  \xF0\x9F\x98\x80"})
    tokenizer.decode(tokenizer.encode(text));
  tokenizer.decode(tokenizer.encode(std::string(300, 'a')));
  std::vector<int32_t> all;
  for (int32_t id = 0; id < tokenizer.size(); ++id) all.push_back(id);
  tokenizer.decode(all);
}

}  // namespace
}  // namespace rankfold::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const rankfold::fuzz::Sound folder;
  return folder.with_input(data, size, [] { rankfold::fuzz::parse(folder.path()); });
}
