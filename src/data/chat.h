// Formats a conversation: as text with the ranges to train on, and as token ids and labels.
#pragma once

#include "data/conversation.h"
#include "rankfold/chat_template.h"
#include "rankfold/dataset.h"
#include "text/vocabulary.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

struct ChatText {
  std::string text;
  std::vector<TextRange> users;       // characters that come from messages, not from the template
  std::vector<TextRange> learnt;      // characters to train on, in order
  std::vector<std::string> left_out;  // parts of messages that the template does not render
  bool lacks_end = false;             // no end-of-turn token follows some answer
};

struct ChatExample {
  Example example;
  std::vector<std::string> left_out;
  bool lacks_end = false;
};

// Converts conversations to ids and labels. Thread safe. It keeps references to its arguments.
class ChatEncoder {
 public:
  ChatEncoder(const ChatTemplate& chat_template, const DataConfig& config)
      : template_(chat_template), config_(config) {}
  ChatExample operator()(const Conversation& conversation) const;

 private:
  const ChatTemplate& template_;
  const DataConfig& config_;
};

// A built-in chat template. It uses bos_token and eos_token of the folder. In `source`, @USER@ and @ASSISTANT@ stand
// for the tokens below.
struct BuiltInTemplate {
  const char* name;
  std::string source;
  // Tokens before a turn, for model families whose turn tokens have no text: default ids, and texts.
  int32_t user_id = -1, assistant_id = -1;
  const char *user_text = "", *assistant_text = "";
};
const std::vector<BuiltInTemplate>& built_in_templates();

}  // namespace rankfold
