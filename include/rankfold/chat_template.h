// A chat template turns a conversation into one text. It is a Jinja template, rendered as transformers'
// apply_chat_template does.
#pragma once

#include "rankfold/config.h"
#include "rankfold/tokenizer.h"

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace rankfold {

struct Conversation;  // internal
struct ChatText;      // internal

// A shared handle: copies refer to the same template. Thread safe.
class ChatTemplate {
 public:
  // Opens the first of these that exists:
  // - the template that config.chat_template names: a file, one of names(), or one of several in the folder;
  // - the record in config.chat_record;
  // - the folder's own: chat_template.jinja, chat_template of tokenizer_config.json (a text, or a list with names),
  //   additional_chat_templates/NAME.jinja.
  // If the folder has several, "tool_use" applies to conversations with tools and "default" to others. Throws UserError
  // where there is none.
  static ChatTemplate open(const std::filesystem::path& folder, const DataConfig& config);
  static ChatTemplate open(const Tokenizer& tokenizer, const DataConfig& config);  // uses the tokenizer's folder
  static const std::vector<std::string>& names();                                  // names of the built-in templates

  // Returns the text of a conversation. `conversation` is JSON: a list of messages or {"messages": [...], "tools":
  // [...], "documents": [...]}. Throws UserError for other input, and where the template raises an error.
  std::string render(const std::string& conversation, bool add_generation_prompt = true) const;
  // Returns the token ids of that text. bos and eos appear only where the template writes them. Throws
  // std::invalid_argument for a template that was opened without a tokenizer.
  std::vector<int32_t> encode(const std::string& conversation, bool add_generation_prompt = true) const;

  // Ids of the tokens that end an assistant's turn; pass them to generate(). Throws std::invalid_argument without a
  // tokenizer.
  std::vector<int64_t> stop_token_ids() const;

  bool uses_date() const;        // whether the template writes the date (config.template_date)
  uint64_t fingerprint() const;  // hash of everything that determines a conversation's ids and labels
  // Files from which config.chat_record restores the template: file name -> text. record() returns the keys that
  // prompt_template.json needs for it.
  std::map<std::string, std::string> files() const;
  std::string record() const;  // a JSON object

  // Internal: the same for the library's own types.
  ChatText render(const Conversation& conversation, bool add_generation_prompt) const;
  std::vector<int32_t> encode(const Conversation& conversation, bool add_generation_prompt) const;

 private:
  friend class ChatEncoder;
  struct State;
  static ChatTemplate open(const std::filesystem::path& folder, const DataConfig& config, const Tokenizer* tokenizer);
  std::shared_ptr<const State> state_;
};

}  // namespace rankfold
