// What a folder's small files say of its tokens: tokenizer_config.json, special_tokens_map.json, added_tokens.json.
#pragma once

#include "text/vocabulary.h"

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace rankfold {

struct FolderTokens {
  // bos_token, eos_token and the like, those that are set: name -> text. tokenizer_config.json's count first.
  std::map<std::string, std::string> special;
  std::optional<bool> add_bos_token;
  // Of added_tokens_decoder and added_tokens.json, the former first, in the order of their ids. Entries of another
  // shape name no token. `special` is false where the file says nothing.
  std::vector<AddedToken> added;
  // chat_template of tokenizer_config.json: name -> source; a single one is called "default".
  std::map<std::string, std::string> chat_templates;

  std::string special_text(const char* name) const;  // empty where it is not set
};

// Throws UserError for what is no JSON object or has values of another kind. A folder may lack all of the files.
FolderTokens read_folder_tokens(const std::filesystem::path& folder);

// Texts that end an assistant's turn in one family or another.
const std::vector<std::string>& known_ends_of_turn();

}  // namespace rankfold
