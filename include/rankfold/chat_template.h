// A chat template: how a model's conversations look as one text. Jinja, rendered as transformers' apply_chat_template
// does.
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

// A handle; copies share what it holds. Thread safe.
class ChatTemplate {
 public:
  // The template that config.chat_template names (a file, one of names(), or one of several that the folder has); else
  // the record in config.chat_record; else the folder's own: chat_template.jinja, chat_template of
  // tokenizer_config.json (a text, or a list with names), additional_chat_templates/NAME.jinja. Where there are
  // several, "tool_use" counts for a conversation with tools, "default" for others. Throws UserError where there is
  // none.
  static ChatTemplate open(const std::filesystem::path& folder, const DataConfig& config);
  static ChatTemplate open(const Tokenizer& tokenizer, const DataConfig& config);  // of the tokenizer's folder
  static const std::vector<std::string>& names();                                  // of those that are built in

  // `conversation`: JSON, a list of messages or {"messages": [...], "tools": [...], "documents": [...]}. Throws
  // UserError where the template raises an error.
  std::string render(const std::string& conversation, bool add_generation_prompt = true) const;
  // Its ids. bos and eos are there where the template writes them. Needs a template that was opened with a tokenizer.
  std::vector<int32_t> encode(const std::string& conversation, bool add_generation_prompt = true) const;

  // Of the tokens that end an answer's turn: generate() stops at them. Needs a tokenizer, too.
  std::vector<int64_t> stop_token_ids() const;

  bool uses_date() const;        // needs config.template_date
  uint64_t fingerprint() const;  // of all that decides on a conversation's text and on what is learnt of it
  // What config.chat_record reads again: file name -> text. Of prompt_template.json the keys that belong to it.
  std::map<std::string, std::string> files() const;
  std::string record() const;  // a JSON object

  // Internal: by the library's own types.
  ChatText render(const Conversation& conversation, bool add_generation_prompt) const;
  std::vector<int32_t> encode(const Conversation& conversation, bool add_generation_prompt) const;

 private:
  friend class ChatEncoder;
  struct State;
  static ChatTemplate open(const std::filesystem::path& folder, const DataConfig& config, const Tokenizer* tokenizer);
  std::shared_ptr<const State> state_;
};

}  // namespace rankfold
