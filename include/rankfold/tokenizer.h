// sentencepiece tokenizer of a model folder. The only place that decides on bos and eos.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

class Tokenizer {
 public:
  // Reads folder/tokenizer.model and, if there, tokenizer_config.json (add_bos_token). `bos_by_default` decides where
  // the folder says nothing (LLaMA true, Baichuan false). `eos_token_id` is the model config's, -1 for the tokenizer's
  // own.
  static Tokenizer open(const std::filesystem::path& folder, bool bos_by_default, int32_t eos_token_id = -1);

  // Ids of the text alone: no bos, no eos. Text that spells a control token ("<s>") is encoded as text.
  std::vector<int32_t> encode(std::string_view text) const;
  // Control tokens and ids beyond the vocabulary (a padded embedding has such) are left out.
  std::string decode(const std::vector<int32_t>& ids) const;
  std::string piece(int32_t id) const;  // as it stands in the vocabulary, for printing

  std::optional<int32_t> bos() const;  // to be put before every sequence; nullopt: nothing is put there
  int32_t eos() const;
  int64_t size() const;
  uint64_t fingerprint() const;  // of tokenizer.model, bos and eos: where it is the same, so are the ids of every text

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

// Ids of a prompt, as training made them: bos where the folder says so, then the template with the question in it.
std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, const std::string& prompt_template,
                                   const std::string& question);

}  // namespace rankfold
