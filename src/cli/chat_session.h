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

// Runs until the end of the input, /exit, a second Ctrl-C at the prompt, or a closed standard output. Answers go to
// standard output as they are generated, all else to standard error. Ctrl-C ends an answer; the text so far stays in
// the history. An answer also ends at the model's max_position_embeddings. A turn that cannot be answered is reported
// and left out on a terminal; otherwise its error is thrown.
void converse(const ChatSession& session);

}  // namespace rankfold
