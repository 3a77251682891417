// Reads what the small files of a folder say about tokens: tokenizer_config.json, special_tokens_map.json,
// added_tokens.json.
#pragma once

#include "text/vocabulary.h"

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace rankfold {

struct FolderTokens {
  // bos_token, eos_token and similar, if set: name -> text. tokenizer_config.json takes precedence.
  std::map<std::string, std::string> special;
  std::optional<bool> add_bos_token;
  // From added_tokens_decoder, then added_tokens.json, in the order of their ids. Entries of an unknown shape are
  // ignored. `special` is false where the file does not give it.
  std::vector<AddedToken> added;
  // chat_template of tokenizer_config.json: name -> source; a single one is called "default".
  std::map<std::string, std::string> chat_templates;

  std::string special_text(const char* name) const;  // empty: not set
};

// Throws UserError for a file that is not a JSON object or has values of the wrong type. All of the files are optional.
FolderTokens read_folder_tokens(const std::filesystem::path& folder);

// Texts that end an assistant's turn in any known model family.
const std::vector<std::string>& known_ends_of_turn();

}  // namespace rankfold
