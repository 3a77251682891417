// The messages of a conversation as a chat template sees them. Marks on their characters tell which characters of the
// rendered text come from which message.
#pragma once

#include "text/jinja/value.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

// The part of a message that a character comes from. Standard role names count as text of the template, because it
// turns them into tokens.
enum class MessagePart { kText, kThinking, kCall, kOther, kRole };

struct Origin {
  size_t message = 0;
  MessagePart part = MessagePart::kText;

  static constexpr int32_t kElsewhere = INT32_MAX;  // from tools or documents, not from a message
  static constexpr size_t kParts = 5;
  int32_t number() const { return static_cast<int32_t>(message * kParts + static_cast<size_t>(part)); }
  // nullopt: the character comes from the template, or from no message.
  static std::optional<Origin> of(int32_t number);
};

size_t size_without_blanks(std::string_view text);

struct Message {
  jinja::Value value;  // a Jinja dict
  std::string role;
  bool is_assistant = false;
  bool is_learnt = true;                    // for an assistant's message: whether it is trained on
  size_t text_size = 0, thinking_size = 0;  // non-blank bytes of the texts

  bool spells(std::string_view token) const;  // whether one of its texts contains the token's text
};

struct Conversation {
  std::vector<Message> messages;
  jinja::Value tools = jinja::None(), documents = jinja::None();

  // Adds a message of a row: {"role": ..., "content": ...} or {"from": ..., "value": ...}. Throws UserError, which
  // begins with `place`, for other input.
  void add(const jinja::Value& message, const std::string& place);
  void add_all(const jinja::Value& list, const std::string& place);  // a list of messages
  void say(const std::string& role, const std::string& content);
  void set_tools(const jinja::Value& list, const std::string& place);  // a list, or a text with a list as JSON
  void set_documents(const jinja::Value& list, const std::string& place);

  // The conversation without its last answer: the prompt of that answer.
  Conversation prompt() const;
};

// Parses a list of messages, or an object with "messages", "tools", "documents". Throws UserError, which names
// `source`.
Conversation read_conversation(std::string_view json, const std::string& source);

}  // namespace rankfold
