// tokenizer.model through our checks and sentencepiece, then a few texts there and back; tokenizer_config.json.
#include "rankfold/tokenizer.h"
#include "data/model_bytes.h"
#include "fuzz/fuzz.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <new>
#include <stdexcept>

namespace rankfold::fuzz {

using namespace testing;

const char* const kName = "tokenizer";
const double kGrowthOfAByte = 40;  // which is what a value of JSON takes

const std::vector<std::string>& file_names() {
  static const std::vector<std::string> names{"tokenizer.model", "tokenizer_config.json", "added_tokens.json"};
  return names;
}

namespace {

constexpr int kUnigram = 1, kBpe = 2, kWord = 3, kChar = 4;

std::string user_defined() {
  return piece("<sep>", 0, kUserDefined) + piece("<se", 0, kUserDefined) + piece("ba", 0, kUserDefined) +
         piece("th\xE2\x96\x81", -9, kUnused) + piece("bb", -9, kUnused);
}

// As many pieces and rules that begin one another as may be.
std::string nested_pieces() {
  std::string pieces = piece("b" + std::string(70, 'a'), 0, kUserDefined);
  for (size_t i = 2; i < 66; ++i) pieces += piece(std::string(i, 'a'), 0, kUserDefined);
  return pieces;
}
std::string deep_table() {
  NormaliserTable::Rules rules;
  for (size_t i = 1; i <= 32; ++i) rules[std::string(i, 'a')] = "th";
  return NormaliserTable::of(rules).bytes();
}

}  // namespace

std::vector<std::string> seeds() {
  const std::string one_rule = NormaliserTable::of({{"A", "a"}}).bytes();
  const std::string nested_rules =
      NormaliserTable::of({{"A", "a"}, {"AB", "b a"}, {"ABC", ""}, {"\xE7\xB3", "t"}, {"\xE7\xB3\x96\xE7", "the"}})
          .bytes();
  const std::string denormaliser = field(5, field(1, "back") + field(2, one_rule));
  return {
      input(0, tokenizer_model({.type = kBpe, .byte_fallback = true})),
      input(0, tokenizer_model({.type = kBpe})),
      input(0, tokenizer_model({.type = kUnigram})),
      input(0, tokenizer_model({.type = kWord, .control = false})),
      input(0, tokenizer_model({.type = kChar})),
      input(0, tokenizer_model({.type = kBpe, .normaliser_table = one_rule})),
      input(0, tokenizer_model({.type = kUnigram, .byte_fallback = true, .normaliser_table = one_rule})),
      input(0, tokenizer_model({.type = kBpe, .normaliser_table = nested_rules, .more = user_defined()})),
      input(0, tokenizer_model({.type = kUnigram, .normaliser_table = nested_rules, .more = user_defined()})),
      input(0, tokenizer_model({.type = kChar, .normaliser_table = nested_rules, .more = user_defined()})),
      input(0, tokenizer_model({.type = kBpe, .more = nested_pieces()})),
      input(0, tokenizer_model({.type = kBpe, .normaliser_table = deep_table()})),
      input(0, tokenizer_model({.type = kBpe, .more = field(4, "") + denormaliser})),
      input(1, R"({"add_bos_token":true,"add_eos_token":false,"bos_token":"<s>","model_max_length":1e+30})"),
      input(1, R"({"eos_token":{"content":"<s>","lstrip":false},"added_tokens_decoder":{"9999":{"content":"<end>"}}})"),
      input(2, R"({"<|im_end|>":300,"<s>":1,"odd":"x","far":18446744073709551615})"),
      input(1, R"({"add_bos_token":null,"added_tokens_decoder":{"0":{"content":"<unk>","special":true}}})"),
  };
}

std::vector<Large> large_inputs(int count) {
  const auto model = [&](int type, int some, uint64_t piece_type, const std::string& begin) {
    const auto one = [&](int i) { return piece(begin + std::to_string(i), -1, piece_type); };
    return input(0, tokenizer_model({.type = type, .more = repeated("", some, one, "", "")}));
  };
  const auto fields = [&](int some, const std::string& one) {
    return repeated(
        "", some, [&](int) { return one; }, "", "");
  };
  NormaliserTable::Rules rules;
  for (int i = 0; i < 900; ++i)
    rules[{static_cast<char>('0' + i / 30), static_cast<char>('A' + i % 30)}] = std::string(200, ' ');
  const std::string table = NormaliserTable::of(rules).bytes();
  return {
      {"BPE pieces", model(kBpe, count, kNormal, "a")},
      {"unigram pieces", model(kUnigram, count, kNormal, "a")},
      {"long unigram pieces", model(kUnigram, 5'000, kNormal, std::string(200, 'a'))},
      {"word pieces", model(kWord, count, kNormal, "a")},
      {"control pieces", model(kBpe, count, kControl, "a")},
      {"as many control pieces as may be", model(kBpe, 16'000, kControl, "a")},
      {"as many user-defined pieces as may be", model(kBpe, 16'000, kUserDefined, std::string(60, 'a'))},
      {"as many unused pieces as may be", model(kBpe, 16'000, kUnused, "a")},
      {"pieces without a text", input(0, fields(count, field(1, "")))},
      {"settings", input(0, tokenizer_model({.more = field(2, fields(count, field(1, "a")))}))},
      {"normalisers", input(0, tokenizer_model({.more = fields(count, field(3, ""))}))},
      {"rules",
       input(0, tokenizer_model({.normaliser_table = table, .more = piece(std::string(500, '0'), 0, kControl)}))},
      {"keys", input(1, repeated(
                            "{", count, [](int i) { return "\"" + std::to_string(i) + "\":0"; }, "}"))},
      {"added tokens",
       input(2, repeated(
                    "{", count, [](int i) { return "\"<" + std::to_string(i) + ">\":" + std::to_string(i); }, "}"))},
  };
}

namespace {

struct Sound : Folder {
  Sound() {
    write("tokenizer.model", tokenizer_model({.byte_fallback = true}));
    write("tokenizer_config.json", R"({"eos_token":"<end>"})");
    write("added_tokens.json", "{}");
  }
};

// Texts that end where memory does: sentencepiece is not instrumented, what it reads beyond them is a fault here.
class Edge {
 public:
  Edge() {
    void* memory = ::mmap(nullptr, 2 * page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || ::mprotect(static_cast<char*>(memory) + page_, page_, PROT_NONE) != 0)
      throw std::bad_alloc();
    end_ = static_cast<char*>(memory) + page_;
  }
  std::string_view put(std::string_view text) {
    if (text.size() > page_) throw std::length_error("a text longer than a page");
    if (!text.empty()) std::memcpy(end_ - text.size(), text.data(), text.size());
    return {end_ - text.size(), text.size()};
  }

 private:
  const size_t page_ = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  char* end_ = nullptr;
};

void parse(const std::filesystem::path& path) {
  constexpr int32_t kSome = 40;  // pieces for texts
  static Edge edge;
  const Tokenizer tokenizer = Tokenizer::of_model(path, true, {2, 300}, 400);
  for (const std::string& text :
       {std::string("the bath"), std::string(), std::string("A <s> the\xE7\xB3\x96\xFF\t the<sep>"),
        std::string("<0x41></s>  \xF0\x9F\x98\x80 bath\xE7"), std::string("ABCABAB \xE7\xB3"), std::string(300, 'a')})
    tokenizer.decode(tokenizer.encode(edge.put(text)));
  std::vector<int32_t> all;
  for (int32_t id = 0; id < tokenizer.size(); ++id) {
    all.push_back(id);
    if (id < kSome) tokenizer.decode(tokenizer.encode(edge.put(tokenizer.piece(id))));
  }
  tokenizer.decode(all);
}

}  // namespace
}  // namespace rankfold::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const rankfold::fuzz::Sound folder;
  return folder.with_input(data, size, [](const std::string&) { rankfold::fuzz::parse(folder.path()); });
}
