// The messages of a conversation as a chat template sees them, with marks that say which characters of the result come
// from which message.
#pragma once

#include "text/jinja/value.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

// What of a message a character comes from. Roles that every family has are a template's text: it makes tokens of them.
enum class MessagePart { kText, kThinking, kCall, kOther, kRole };

struct Origin {
  size_t message = 0;
  MessagePart part = MessagePart::kText;

  static constexpr int32_t kElsewhere = INT32_MAX;  // tools, documents: no message's
  static constexpr size_t kParts = 5;
  int32_t number() const { return static_cast<int32_t>(message * kParts + static_cast<size_t>(part)); }
  // nullopt: the template's, or of no message.
  static std::optional<Origin> of(int32_t number);
};

size_t size_without_blanks(std::string_view text);

struct Message {
  jinja::Value value;  // a dict
  std::string role;
  bool is_assistant = false;
  bool is_learnt = true;                    // where it is an assistant's
  size_t text_size = 0, thinking_size = 0;  // bytes that are no blanks, of texts

  bool spells(std::string_view token) const;  // in one of its texts
};

struct Conversation {
  std::vector<Message> messages;
  jinja::Value tools = jinja::None(), documents = jinja::None();

  // Adds a message {"role": ..., "content": ...} as a row has it, {"from": ..., "value": ...} too. `place` opens the
  // error where it is none.
  void add(const jinja::Value& message, const std::string& place);
  void add_all(const jinja::Value& list, const std::string& place);  // a list of messages
  void say(const std::string& role, const std::string& content);
  void set_tools(const jinja::Value& list, const std::string& place);  // or a text that holds one, as JSON
  void set_documents(const jinja::Value& list, const std::string& place);

  // All but the last answer: what it is an answer to.
  Conversation prompt() const;
};

// A list of messages, or an object with "messages", "tools", "documents".
Conversation read_conversation(std::string_view json, const std::string& source);

}  // namespace rankfold
