// A conversation in a terminal, or over pipes: a line of standard input is a turn.
#pragma once

#include "data/conversation.h"
#include "rankfold/causal_lm.h"
#include "rankfold/chat_template.h"
#include "rankfold/config.h"
#include "rankfold/generate.h"

#include <optional>
#include <string>

namespace rankfold {

struct ChatSession {
  const CausalLM& model;
  std::optional<ChatTemplate> chat_template;  // nullopt: prompt_template, without a history
  std::string prompt_template;
  Conversation opening;  // what was said before
  GenerateConfig generate;
};

// Until the end of the input, /exit, a second Ctrl-C at the prompt, or until nobody reads the answers any more. Answers
// go to standard output as they come, all else to standard error. Ctrl-C ends an answer; what was said of it stays in the
// history. An answer ends where the model's max_position_embeddings are used up. On a terminal a turn that cannot be
// answered is told and left out; elsewhere it is thrown.
void converse(const ChatSession& session);

}  // namespace rankfold
