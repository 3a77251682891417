// A conversation as one text with what of it is learnt, and as ids and labels.
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
  std::vector<TextRange> users;       // characters that are not the template's
  std::vector<TextRange> learnt;      // in order
  std::vector<std::string> left_out;  // what of the messages the template does not write
  bool lacks_end = false;             // some answer does: nothing that ends a turn follows it
};

struct ChatExample {
  Example example;
  std::vector<std::string> left_out;
  bool lacks_end = false;
};

// Ids and labels of conversations. Thread safe; refers to its arguments.
class ChatEncoder {
 public:
  ChatEncoder(const ChatTemplate& chat_template, const DataConfig& config)
      : template_(chat_template), config_(config) {}
  ChatExample operator()(const Conversation& conversation) const;

 private:
  const ChatTemplate& template_;
  const DataConfig& config_;
};

// One that is built in. It uses bos_token and eos_token of the folder; @USER@ and @ASSISTANT@ stand for the tokens.
struct BuiltInTemplate {
  const char* name;
  std::string source;
  // Tokens before a turn, where the family has some that are no text: their ids by default, and their texts.
  int32_t user_id = -1, assistant_id = -1;
  const char *user_text = "", *assistant_text = "";
};
const std::vector<BuiltInTemplate>& built_in_templates();

}  // namespace rankfold
