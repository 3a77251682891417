#include "data/conversation.h"

#include "core/check.h"

#include <algorithm>
#include <array>

namespace rankfold {
namespace {

using jinja::Entry;
using jinja::Value;

struct RoleName {
  std::string_view theirs, ours;
};
// Other tools' words for the two that every template knows.
constexpr std::array<RoleName, 7> kRoleNames = {{{"human", "user"},
                                                 {"gpt", "assistant"},
                                                 {"chatgpt", "assistant"},
                                                 {"bing", "assistant"},
                                                 {"bard", "assistant"},
                                                 {"bot", "assistant"},
                                                 {"observation", "tool"}}};
constexpr std::array<std::string_view, 10> kKnownRoles = {
    "system", "developer", "user", "assistant", "model", "tool", "function", "ipython", "observation", "environment"};
constexpr std::array<std::string_view, 3> kThinking = {"reasoning_content", "thinking", "reasoning"};
constexpr std::string_view kFunctionCall = "function_call";  // LLaMA-Factory's role of a call of tools

template <class Names>
bool is_one_of(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

size_t size_of(const Value& value) { return value.is_text() ? size_without_blanks(value.text().view()) : 0; }

std::string keys_of(const Value& dict) {
  std::string list;
  for (const Entry& entry : dict.mapping().entries()) {
    list += (list.empty() ? "" : ", ") + entry.first.text().string();
    if (list.size() > 200) return list + "...";
  }
  return list;
}

const Value* find(const Value& dict, std::string_view key) {
  const Value* value = dict.find(Value(key));
  return value && !value->is_none() ? value : nullptr;
}

// {"name": ..., "arguments": ...}, or a list of such, as the value of tool_calls.
Value calls_of(const Value& content, const std::string& place) {
  if (!content.is_text()) fail(place, ": expected the JSON of a call of tools, got another kind of value");
  const Value read = jinja::from_json(content.text().view(), place);
  std::vector<Value> calls;
  for (const Value& call : read.is_list() ? read.items() : std::vector<Value>{read}) {
    if (!call.is_dict() || !find(call, "name")) fail(place, ": expected {\"name\": ..., \"arguments\": ...}");
    calls.push_back(Value::dict({{"type", "function"}, {"function", call}}));
  }
  return Value::list(std::move(calls));
}

bool is_switched_off(const Value& message, const std::string& place) {
  for (const char* key : {"weight", "train", "training"}) {
    const Value* value = find(message, key);
    if (!value) continue;
    if (!value->is_number()) fail(place, ".", key, ": expected true, false, 1 or 0");
    if (!jinja::truth(*value)) return true;
    if (!jinja::equal(*value, Value(1))) fail(place, ".", key, ": expected 0 or 1; other weights are not supported");
  }
  return false;
}

}  // namespace

size_t size_without_blanks(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return c != ' ' && (c < '\t' || c > '\r'); }));
}

std::optional<Origin> Origin::of(int32_t number) {
  if (number < 0 || number == kElsewhere) return std::nullopt;
  const auto whole = static_cast<size_t>(number);
  return Origin{whole / kParts, static_cast<MessagePart>(whole % kParts)};
}

bool Message::spells(std::string_view token) const {
  for (const Entry& entry : value.mapping().entries())
    if (entry.second.is_text() && entry.second.text().view().find(token) != std::string_view::npos) return true;
  return false;
}

void Conversation::add(const Value& given, const std::string& place) {
  if (!given.is_dict()) fail(place, ": expected an object with role and content");
  const bool is_sharegpt = !find(given, "role") && find(given, "from");
  const std::string role_key = is_sharegpt ? "from" : "role";
  const std::string content_key = !find(given, "content") && find(given, "value") ? "value" : "content";
  const Value* role = find(given, role_key);
  if (!role) fail(place, ": expected role (or from), got keys [", keys_of(given), "]");
  if (!role->is_text()) fail(place, ".", role_key, ": expected a text");

  Message message;
  message.role = role->text().string();
  const bool is_all_call = message.role == kFunctionCall;
  if (is_all_call) message.role = "assistant";
  for (const RoleName& name : kRoleNames)
    if (message.role == name.theirs && (is_sharegpt || name.theirs != "observation")) message.role = name.ours;
  message.is_assistant = message.role == "assistant" || message.role == "model";
  message.is_learnt = message.is_assistant && !is_switched_off(given, place);

  const size_t index = messages.size();
  const auto marked = [index](const Value& value, MessagePart part) {
    return value.marked(Origin{index, part}.number());
  };
  std::vector<Entry> entries;
  const Value* thinking = nullptr;
  for (const Entry& entry : given.mapping().entries()) {
    const std::string key = entry.first.text().string();
    const Value& value = entry.second;
    if (value.is_none()) continue;  // as transformers 5
    if (key == role_key) {
      const Value text = message.role;
      entries.emplace_back("role", is_one_of(kKnownRoles, message.role) ? text : marked(text, MessagePart::kRole));
    } else if (key == content_key && is_all_call) {
      entries.emplace_back("content", "");
      entries.emplace_back("tool_calls", marked(calls_of(value, place + "." + key), MessagePart::kCall));
    } else if (key == content_key) {
      if (!value.is_text() && !value.is_list()) fail(place, ".", key, ": expected a text or a list of parts");
      message.text_size = size_of(value);
      entries.emplace_back("content", marked(value, MessagePart::kText));
    } else if (is_one_of(kThinking, key)) {
      if (!value.is_text()) fail(place, ".", key, ": expected a text");
      if (!thinking) thinking = &value;
      entries.emplace_back(Value(key), marked(value, MessagePart::kThinking));
    } else {
      const bool is_call = key == "tool_calls" || key == kFunctionCall;
      entries.emplace_back(Value(key), marked(value, is_call ? MessagePart::kCall : MessagePart::kOther));
    }
  }
  if (thinking) {  // under both names, as transformers 5
    message.thinking_size = size_of(*thinking);
    for (const std::string_view key : {kThinking[0], kThinking[1]})
      if (!find(given, key)) entries.emplace_back(Value(key), marked(*thinking, MessagePart::kThinking));
  }
  message.value = Value::dict(std::move(entries));
  messages.push_back(std::move(message));
}

void Conversation::add_all(const Value& list, const std::string& place) {
  if (!list.is_list() || list.items().empty())
    fail(place, ": expected a list of messages, {\"role\": ..., \"content\": ...}");
  for (size_t i = 0; i < list.items().size(); ++i) add(list.items()[i], join(place, "[", i, "]"));
}

void Conversation::say(const std::string& role, const std::string& content) {
  add(Value::dict({{"role", Value(role)}, {"content", Value(content)}}), role);
}

void Conversation::set_tools(const Value& given, const std::string& place) {
  const bool is_json = given.is_text() && size_of(given) > 0;
  Value list = is_json ? jinja::from_json(given.text().view(), place) : given;
  if (list.is_none() || list.is_text()) return;
  if (!list.is_list()) fail(place, ": expected a list of tools");
  for (const Value& tool : list.items())
    if (!tool.is_dict()) fail(place, ": expected a list of objects, the schemas of tools");
  tools = list.marked(Origin::kElsewhere);
}

void Conversation::set_documents(const Value& list, const std::string& place) {
  if (list.is_none()) return;
  if (!list.is_list()) fail(place, ": expected a list of documents");
  for (const Value& document : list.items())
    if (!document.is_dict()) fail(place, ": expected a list of objects with title and text");
  documents = list.marked(Origin::kElsewhere);
}

Conversation Conversation::prompt() const {
  Conversation before = *this;
  while (!before.messages.empty() && before.messages.back().is_assistant) before.messages.pop_back();
  return before;
}

Conversation read_conversation(std::string_view json, const std::string& source) {
  const Value read = jinja::from_json(json, source);
  Conversation conversation;
  const Value* messages = &read;
  if (read.is_dict()) {
    messages = find(read, "messages");
    if (!messages) fail(source, ": expected messages, got keys [", keys_of(read), "]");
    for (const Entry& entry : read.mapping().entries())
      if (const std::string key = entry.first.text().string(); key == "tools")
        conversation.set_tools(entry.second, source + ": tools");
      else if (key == "documents")
        conversation.set_documents(entry.second, source + ": documents");
      else if (key != "messages")
        fail(source, ": unknown key '", key, "'; expected messages, tools, documents");
  }
  conversation.add_all(*messages, source + ": messages");
  return conversation;
}

}  // namespace rankfold
