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
  // Reads folder/tokenizer.model and, if there, tokenizer_config.json (add_bos_token, eos_token) and added_tokens.json.
  // `bos_by_default` decides where the folder says nothing (LLaMA true, Baichuan false). eos is `eos_token_id`; -1: the
  // tokenizer's own, which is eos_token of tokenizer_config.json, else tokenizer.model's.
  static Tokenizer open(const std::filesystem::path& folder, bool bos_by_default, int32_t eos_token_id = -1);

  // The same for a model whose configs name these ids as eos, if any, and whose embedding has `vocab_size` rows. eos is
  // the tokenizer's own, as Hugging Face trains; where it has none, the first of the model's that is a piece. note()
  // says where they differ.
  static Tokenizer of_model(const std::filesystem::path& folder, bool bos_by_default,
                            const std::vector<int64_t>& eos_token_ids, int64_t vocab_size);

  // Ids of the text alone: no bos, no eos. Text that spells a control token ("<s>") is encoded as text.
  std::vector<int32_t> encode(std::string_view text) const;
  // Control tokens and ids beyond the vocabulary (a padded embedding has such) are left out.
  std::string decode(const std::vector<int32_t>& ids) const;
  std::string piece(int32_t id) const;  // as it stands in the vocabulary, for printing

  std::optional<int32_t> bos() const;  // to be put before every sequence; nullopt: nothing is put there
  int32_t eos() const;
  int64_t size() const;
  const std::string& note() const;  // a line where the folder's files name different eos tokens; else empty
  // Texts of the control and added tokens, the first 64: encode() takes them as text.
  const std::vector<std::string>& control_tokens() const;
  uint64_t fingerprint() const;  // of tokenizer.model, bos and eos: where it is the same, so are the ids of every text

 private:
  struct State;
  static std::shared_ptr<State> read(const std::filesystem::path& folder, bool bos_by_default);
  static Tokenizer with_eos(const std::shared_ptr<State>& state, int32_t eos);
  std::shared_ptr<const State> state_;
};

// Ids of a prompt, as training made them: bos where the folder says so, then the template with the question in it.
std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, const std::string& prompt_template,
                                   const std::string& question);

}  // namespace rankfold
