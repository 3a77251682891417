// A sentencepiece model trained within a second, of the kind LLaMA and Baichuan have: BPE with byte fallback.
#pragma once

#include <sentencepiece_trainer.h>

#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

namespace rankfold::testing {

constexpr int kPieces = 500;  // where nothing else is said

inline const std::vector<std::string>& tiny_corpus() {
  static const std::vector<std::string> lines = {
      "What does metformin do? It lowers the sugar in the blood.",
      "What is the usual dose of aspirin? Ask your doctor before you take it.",
      "A patient with high blood pressure should take the medicine every day.",
      "The question is what the answer of the question is.",
      "糖尿病患者应当如何控制血糖?请遵医嘱按时服药。",
      "高血压患者每天应当按时服药,少吃盐,多运动。",
      "阿司匹林的常用剂量是多少?请先咨询医生。",
      "发烧的时候应当多喝水,多休息,必要时去医院。",
  };
  return lines;
}

// Writes folder/tokenizer.model: unk 0, bos 1, eos 2, 256 bytes, then characters and merges. `options` are
// further ones of SentencePieceTrainer, or other values for these.
inline void train_tokenizer(const std::filesystem::path& folder, int vocab_size = kPieces,
                            const std::unordered_map<std::string, std::string>& options = {}) {
  class Lines : public sentencepiece::SentenceIterator {
   public:
    bool done() const override { return at_ == tiny_corpus().size(); }
    void Next() override { ++at_; }
    const std::string& value() const override { return tiny_corpus()[at_]; }
    sentencepiece::util::Status status() const override { return {}; }

   private:
    size_t at_ = 0;
  } lines;

  std::unordered_map<std::string, std::string> all = options;
  all.insert({{"model_type", "bpe"},
              {"vocab_size", std::to_string(vocab_size)},
              {"byte_fallback", "true"},
              {"character_coverage", "1.0"},
              {"normalization_rule_name", "identity"},
              {"remove_extra_whitespaces", "false"},
              {"add_dummy_prefix", "false"},
              {"num_threads", "1"},
              {"minloglevel", "2"}});
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(all, &lines, &model);
  if (!status.ok()) throw std::runtime_error(status.ToString());
  std::ofstream(folder / "tokenizer.model", std::ios::binary) << model;
}

}  // namespace rankfold::testing
