#include "clean/row_text.h"

#include "clean/normal_text.h"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace rankfold {
namespace {

using Json = nlohmann::json;
using Kind = RowText::Kind;

std::string dumped(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

const Json* find(const Json& object, const std::string& key) {
  if (key.empty() || !object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

bool is_blank(const std::string& text) { return normal_text(text).empty(); }

// A text, or the texts of a list of parts.
std::string content_of(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  std::string all;
  if (value.is_array())
    for (const Json& part : value) {
      const Json* text = find(part, "text");
      all += (all.empty() ? "" : "\n") + (text && text->is_string() ? text->get<std::string>() : dumped(part));
    }
  return all;
}

class Reader {
 public:
  explicit Reader(RowText& to) : to_(to) {}

  void add(Kind kind, const Json* value) {
    if (!value) return;
    std::string text = value->is_string() ? value->get<std::string>() : dumped(*value);
    if (!text.empty()) to_.parts.push_back({kind, std::move(text)});
  }

  void add_answer(std::string text) {
    to_.has_empty_answer = to_.has_empty_answer || is_blank(text);
    to_.parts.push_back({Kind::kAnswer, std::move(text)});
  }

  // {"role": ..., "content": ...}, or ShareGPT's from and value. `otherwise`: the kind of a role that is not known.
  void add_message(const Json& message) {
    if (!message.is_object()) return;
    const Json* role = find(message, "role");
    if (!role) role = find(message, "from");
    const std::string name = role && role->is_string() ? role->get<std::string>() : "";
    const Json* content = find(message, "content");
    if (!content) content = find(message, "value");
    std::string text = content ? content_of(*content) : "";
    for (const char* more : {"reasoning_content", "tool_calls", "function_call"})
      if (const Json* value = find(message, more); value && !value->empty())
        text += (text.empty() ? "" : "\n") + (value->is_string() ? value->get<std::string>() : dumped(*value));
    constexpr const char* kAssistants[] = {"assistant", "model", "gpt",           "chatgpt",
                                           "bing",      "bard",  "function_call", "bot"};
    const auto is_one_of = [&name](const auto& names) {
      return std::find(std::begin(names), std::end(names), name) != std::end(names);
    };
    if (is_one_of(kAssistants))
      add_answer(std::move(text));
    else if (!text.empty())
      to_.parts.push_back(
          {name == "system" || name == "developer" ? Kind::kContext : Kind::kQuestion, std::move(text)});
  }

  void add_messages(const Json* list) {
    if (list && list->is_array())
      for (const Json& message : *list) add_message(message);
  }

 private:
  RowText& to_;
};

bool is_list_of_objects(const Json* value) {
  return value && value->is_array() && !value->empty() && value->front().is_object();
}

void read_turns(const Json& row, const RowReader::Keys& keys, Reader& reader) {
  if (const Json* history = find(row, keys.history); history && history->is_array())
    for (const Json& turn : *history)
      if (turn.is_array() && turn.size() == 2) {
        reader.add(Kind::kQuestion, &turn[0]);
        reader.add(Kind::kAnswer, &turn[1]);
      }
  const Json *question = find(row, keys.question), *input = find(row, keys.input), *answer = find(row, keys.answer);
  const bool has_input = input && input->is_string() && !is_blank(input->get<std::string>());
  if (is_list_of_objects(question))
    reader.add_messages(question);
  else
    reader.add(has_input ? Kind::kContext : Kind::kQuestion, question);
  if (has_input) reader.add(Kind::kQuestion, input);
  if (is_list_of_objects(answer))
    reader.add_messages(answer);
  else if (!answer || answer->is_string())
    reader.add_answer(answer ? answer->get<std::string>() : "");
}

}  // namespace

RowText text_of(const Json& row, const RowReader::Keys& keys) {
  RowText text;
  Reader reader(text);
  if (keys.is_ready) {
    for (const std::string& key : {keys.answer, keys.labels, keys.attention_mask})
      reader.add(Kind::kIds, find(row, key));
    return text;
  }
  for (const std::string& key : {keys.system, keys.tools, keys.documents}) reader.add(Kind::kContext, find(row, key));
  if (keys.is_chat) {
    reader.add_messages(find(row, keys.answer));
    const bool has_answer = std::any_of(text.parts.begin(), text.parts.end(),
                                        [](const RowText::Part& part) { return part.kind == Kind::kAnswer; });
    text.has_empty_answer = text.has_empty_answer || !has_answer;
  } else {
    read_turns(row, keys, reader);
  }
  return text;
}

namespace {

using Parts = std::vector<RowText::Part>;

// One behind the last answer's index; 0: there is none.
size_t end_of_answers(const Parts& parts) {
  size_t end = parts.size();
  while (end > 0 && parts[end - 1].kind != Kind::kAnswer) --end;
  return end;
}

}  // namespace

std::string RowText::answer() const {
  const size_t end = end_of_answers(parts);
  return end == 0 ? "" : parts[end - 1].text;
}

std::string RowText::question() const {
  const size_t end = end_of_answers(parts);
  size_t begin = end == 0 ? 0 : end - 1;
  while (begin > 0 && parts[begin - 1].kind != Kind::kAnswer) --begin;
  std::string text;
  for (size_t i = begin; i + 1 < end; ++i)
    if (parts[i].kind == Kind::kQuestion) text += (text.empty() ? "" : "\n") + parts[i].text;
  return text;
}

std::string RowText::compared() const {
  std::string text;
  for (const Part& part : parts)
    if (part.kind == Kind::kQuestion || part.kind == Kind::kAnswer) text += (text.empty() ? "" : "\n") + part.text;
  return text;
}

NormalRow normal_of(const RowText& text) {
  NormalRow normal;
  const size_t end = end_of_answers(text.parts);
  bool asks = false;
  for (size_t i = 0; i < text.parts.size(); ++i) {
    const RowText::Part& part = text.parts[i];
    if (asks && i + 1 == end) normal.asked = normal.identity.size();
    // Unit separators, which texts in normal form do not hold, keep parts apart.
    normal.identity += '\x1F';
    normal.identity += static_cast<char>('0' + static_cast<int>(part.kind));
    if (part.kind == Kind::kIds) {
      normal.identity += part.text;
      continue;
    }
    const std::string words = normal_text(part.text);
    normal.identity += words;
    if (part.kind == Kind::kQuestion) {
      asks = true;
      if (i < end && !words.empty()) normal.question += (normal.question.empty() ? "" : " ") + words;
    }
    if (i + 1 < end && part.kind == Kind::kAnswer) normal.question.clear();
    if (i + 1 == end) normal.answer = words;
  }
  return normal;
}

}  // namespace rankfold
