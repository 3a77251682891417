// The tokenizer of a model folder: its tokenizer.json, else its sentencepiece model. The only place that decides on bos
// and eos.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

class Vocabulary;  // internal

class Tokenizer {
 public:
  // Reads folder/tokenizer.json, where there is none tokenizer.model, and, if there, tokenizer_config.json (bos_token,
  // eos_token, pad_token, add_bos_token, added_tokens_decoder), special_tokens_map.json and added_tokens.json.
  // `bos_by_default` decides for a tokenizer.model where the folder says nothing (LLaMA true, Baichuan false). eos is
  // `eos_token_id`; -1: the tokenizer's own, which is eos_token, else tokenizer.model's.
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
  std::string control_text(int32_t id) const;  // of a control token, for printing; else empty
  std::string piece(int32_t id) const;         // as it stands in the vocabulary, for printing

  std::optional<int32_t> bos() const;  // of prefix(): the first
  const std::vector<int32_t>& prefix()
      const;  // to be put before every sequence: bos, or what the family has; often none
  int32_t eos() const;
  int64_t size() const;
  const std::filesystem::path& path() const;  // of the file that was read
  const std::string& note() const;            // a line where the folder's files name different eos tokens; else empty
  // Texts of the control and added tokens, the first 64: encode() takes them as text.
  const std::vector<std::string>& control_tokens() const;
  // Texts that end an assistant's turn: those of this folder, and those of any family.
  const std::vector<std::string>& ends_of_turn() const;
  uint64_t fingerprint() const;  // of vocabulary, bos and eos: where it is the same, so are the ids of every text
  const Vocabulary& vocabulary() const;  // internal

 private:
  struct State;
  static std::shared_ptr<State> read(const std::filesystem::path& folder, bool bos_by_default);
  static Tokenizer with_eos(const std::shared_ptr<State>& state, int32_t eos,
                            const std::vector<int64_t>& eos_token_ids);
  std::shared_ptr<const State> state_;
};

// Ids of a prompt, as training made them: bos where the folder says so, then the template with the question in it.
std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, const std::string& prompt_template,
                                   const std::string& question);

}  // namespace rankfold
