// The tokenizer of a model folder: its tokenizer.json, else its sentencepiece model. It also decides whether bos and
// eos are added.
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

// A shared handle; copies refer to the same vocabulary. Thread safe.
class Tokenizer {
 public:
  // Reads tokenizer.json, or tokenizer.model where there is none. Also reads, where they exist, tokenizer_config.json
  // (bos_token, eos_token, pad_token, add_bos_token, added_tokens_decoder), special_tokens_map.json and
  // added_tokens.json.
  // `bos_by_default` applies to a tokenizer.model if the folder does not set add_bos_token (LLaMA true, Baichuan
  // false). `eos_token_id` -1 selects the tokenizer's own eos: eos_token, else that of tokenizer.model. Throws
  // UserError for a bad file, and where there is no eos.
  static Tokenizer open(const std::filesystem::path& folder, bool bos_by_default, int32_t eos_token_id = -1);

  // The same for a model whose configs name these eos ids (may be empty) and whose embedding has `vocab_size` rows. The
  // tokenizer's own eos is used, as Hugging Face does in training. If it has none, the first of `eos_token_ids` in the
  // vocabulary is used. note() tells where they differ.
  static Tokenizer of_model(const std::filesystem::path& folder, bool bos_by_default,
                            const std::vector<int64_t>& eos_token_ids, int64_t vocab_size);

  // Returns the ids of the text, without bos and eos. Text that looks like a control token ("<s>") is encoded as
  // ordinary text. Throws UserError for text that is not UTF-8 or is too long.
  std::vector<int32_t> encode(std::string_view text) const;
  // Returns the text of ids. It skips control tokens, and ids beyond the vocabulary, which a padded embedding has.
  std::string decode(const std::vector<int32_t>& ids) const;
  std::string control_text(int32_t id) const;  // text of a control token, for display; empty for other ids
  std::string piece(int32_t id) const;         // the vocabulary entry, for display

  std::optional<int32_t> bos() const;  // the first id of prefix()
  // Ids to put before every sequence: bos, or what this model family uses; often none.
  const std::vector<int32_t>& prefix() const;
  int32_t eos() const;
  int64_t size() const;
  const std::filesystem::path& path() const;  // tokenizer.json or tokenizer.model
  const std::string& note() const;            // one line if the folder's files name different eos tokens; else empty
  // Texts of the first 64 control and added tokens. encode() treats them as ordinary text.
  const std::vector<std::string>& control_tokens() const;
  // Texts that end an assistant's turn: those of this folder and those of all known model families.
  const std::vector<std::string>& ends_of_turn() const;
  // Hash of vocabulary, bos and eos. Equal fingerprints give equal ids for every text.
  uint64_t fingerprint() const;
  const Vocabulary& vocabulary() const;  // internal

 private:
  struct State;
  static std::shared_ptr<State> read(const std::filesystem::path& folder, bool bos_by_default);
  static Tokenizer with_eos(const std::shared_ptr<State>& state, int32_t eos,
                            const std::vector<int64_t>& eos_token_ids);
  std::shared_ptr<const State> state_;
};

// Returns the ids of a prompt as in training: prefix(), then the template with {question} replaced. Throws UserError
// where the text is too long.
std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, const std::string& prompt_template,
                                   const std::string& question);

}  // namespace rankfold
