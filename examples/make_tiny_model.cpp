// make_tiny_model OUTPUT DATA.json...: a small Baichuan-style model folder to start from: a sentencepiece tokenizer
// trained on the texts of the JSON files, and random weights. The quickstart trains it in full. The vocabulary is
// hardly more than single characters: LoRA leaves the head as it is, so it can only use pieces that the first training
// has seen, and medical words are made of characters that other words have too.
//
// Everything a model folder needs is here: tokenizer.model, tokenizer_config.json, config.json, generation_config.json
// and model.safetensors.
#include <rankfold/rankfold.h>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <sentencepiece_trainer.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr int64_t kHidden = 384, kInner = 768, kLayers = 3, kHeads = 6;
constexpr size_t kMerges = 32;  // pieces of more than one character

std::vector<std::string> read_texts(const std::vector<fs::path>& files) {
  std::vector<std::string> texts;
  for (const fs::path& path : files) {
    std::ifstream in(path);
    if (!in) throw rankfold::UserError(path.string() + ": expected a JSON file, got nothing that can be read");
    for (const json& row : json::parse(in))
      for (const char* key : {"question", "answer"}) texts.push_back(row.at(key).get<std::string>());
  }
  return texts;
}

class Texts : public sentencepiece::SentenceIterator {
 public:
  explicit Texts(const std::vector<std::string>& texts) : texts_(texts) {}
  bool done() const override { return next_ == texts_.size(); }
  void Next() override { ++next_; }
  const std::string& value() const override { return texts_[next_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& texts_;
  size_t next_ = 0;
};

// Baichuan's settings: BPE, byte fallback, text as it is, no bos.
int64_t train_tokenizer(const fs::path& folder, const std::vector<std::string>& texts) {
  std::set<std::string> characters;
  for (const std::string& text : texts)
    for (size_t i = 0, n = 0; i < text.size(); i += n) {
      n = 1;
      while (i + n < text.size() && (text[i + n] & 0xC0) == 0x80) ++n;  // UTF-8 continues
      characters.insert(text.substr(i, n));
    }
  const size_t vocabulary = 3 + 256 + characters.size() + kMerges;  // <unk> <s> </s>, bytes, characters
  const std::unordered_map<std::string, std::string> options = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(vocabulary)},
      {"hard_vocab_limit", "false"},
      {"character_coverage", "1.0"},
      {"byte_fallback", "true"},
      {"pad_id", "-1"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"num_threads", "1"},  // the same model on every machine
      {"minloglevel", "2"}};
  std::string model;
  Texts lines(texts);
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &lines, &model);
  if (!status.ok()) throw rankfold::UserError("tokenizer: " + status.ToString());
  std::ofstream(folder / "tokenizer.model", std::ios::binary) << model;
  std::ofstream(folder / "tokenizer_config.json") << json{{"add_bos_token", false}, {"add_eos_token", false}}.dump(2);
  return rankfold::Tokenizer::open(folder, false).size();
}

void write_weights(const fs::path& folder, int64_t vocabulary) {
  auto generator = at::detail::createCPUGenerator(1);
  std::vector<std::pair<std::string, at::Tensor>> weights;
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t columns) {
    weights.emplace_back(name + ".weight", at::randn({rows, columns}, generator, at::kFloat).mul_(0.02));
  };
  const auto norm = [&](const std::string& name) { weights.emplace_back(name + ".weight", at::ones({kHidden})); };
  matrix("model.embed_tokens", vocabulary, kHidden);
  for (int64_t i = 0; i < kLayers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    norm(layer + "input_layernorm");
    matrix(layer + "self_attn.W_pack", 3 * kHidden, kHidden);
    matrix(layer + "self_attn.o_proj", kHidden, kHidden);
    norm(layer + "post_attention_layernorm");
    matrix(layer + "mlp.gate_proj", kInner, kHidden);
    matrix(layer + "mlp.up_proj", kInner, kHidden);
    matrix(layer + "mlp.down_proj", kHidden, kInner);
  }
  norm("model.norm");
  matrix("lm_head", vocabulary, kHidden);
  rankfold::write_tensor_file(folder / "model.safetensors", weights);
}

void write_config(const fs::path& folder, int64_t vocabulary) {
  const json config = {{"architectures", {"BaiChuanForCausalLM"}},
                       {"model_type", "baichuan"},
                       {"vocab_size", vocabulary},
                       {"hidden_size", kHidden},
                       {"intermediate_size", kInner},
                       {"num_hidden_layers", kLayers},
                       {"num_attention_heads", kHeads},
                       {"hidden_act", "silu"},
                       {"max_position_embeddings", 512},
                       {"rms_norm_eps", 1e-6},
                       {"bos_token_id", 1},
                       {"eos_token_id", 2},
                       {"tie_word_embeddings", false},
                       {"torch_dtype", "float32"}};
  std::ofstream(folder / "config.json") << config.dump(2) << "\n";
  std::ofstream(folder / "generation_config.json") << json{{"bos_token_id", 1}, {"eos_token_id", 2}}.dump(2) << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: make_tiny_model OUTPUT DATA.json...\n";
    return 2;
  }
  try {
    const fs::path folder = argv[1];
    fs::create_directories(folder);
    const int64_t vocabulary = train_tokenizer(folder, read_texts({argv + 2, argv + argc}));
    write_weights(folder, vocabulary);
    write_config(folder, vocabulary);
    const rankfold::CausalLM model = rankfold::CausalLM::load(folder);
    std::cout << folder.string() << ": " << model.parameter_count() << " parameters, vocabulary " << vocabulary << "\n";
    return 0;
  } catch (const rankfold::Error& error) {
    std::cerr << "make_tiny_model: " << error.what() << "\n";
    return static_cast<int>(error.code());
  } catch (const std::exception& error) {
    std::cerr << "make_tiny_model: " << error.what() << "\n";
    return 1;
  }
}
