#include "rankfold/chat_template.h"

#include "core/check.h"
#include "core/checksum.h"
#include "core/file.h"
#include "core/guard.h"
#include "core/json.h"
#include "core/utf8.h"
#include "data/chat.h"
#include "data/folder_tokens.h"
#include "io/model_folder.h"
#include "text/jinja/jinja.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <span>

namespace rankfold {
namespace fs = std::filesystem;
namespace {

using jinja::Value;
using Sources = std::map<std::string, std::string>;  // name -> source

constexpr const char *kDefault = "default", *kToolUse = "tool_use";
constexpr uint64_t kLargestTemplate = 1 << 20;
// Keys of prompt_template.json.
constexpr const char *kFileKey = "chat_template", *kMoreKey = "chat_templates", *kKwargsKey = "chat_template_kwargs",
                     *kDateKey = "template_date", *kControlsKey = "chat_control_token_ids";

std::string read_template(const fs::path& path) {
  const std::string source = read_text(path, kLargestTemplate);
  check_utf8(source, path.string());
  return source;
}

Sources sources_of(const fs::path& folder, const FolderTokens& tokens) {
  Sources sources = tokens.chat_templates;
  if (what_stands_at(folder / kChatTemplateFile) == "a file")
    sources = {{kDefault, read_template(folder / kChatTemplateFile)}};
  std::error_code error;
  if (fs::is_directory(folder / kChatTemplatesFolder, error))
    for (const auto& entry : fs::directory_iterator(folder / kChatTemplatesFolder, error))
      if (entry.path().extension() == ".jinja") sources[entry.path().stem().string()] = read_template(entry.path());
  return sources;
}

std::string list_of_names() {
  std::string list;
  for (const BuiltInTemplate& one : built_in_templates()) list += (list.empty() ? "" : ", ") + std::string(one.name);
  return list;
}

// The marks in a built-in template's source replaced by string literals.
std::string with_tokens(std::string source, const std::string& user, const std::string& assistant) {
  const std::pair<std::string, const std::string*> marks[] = {{"@USER@", &user}, {"@ASSISTANT@", &assistant}};
  for (const auto& [mark, text] : marks)
    for (size_t at; (at = source.find(mark)) != std::string::npos;)
      source.replace(at, mark.size(), nlohmann::json(*text).dump());
  return source;
}

// user_token_id and assistant_token_id of generation_config.json, as Baichuan 2's code reads them.
std::optional<int32_t> id_in_generation_config(const fs::path& folder, const char* key) {
  const fs::path path = folder / "generation_config.json";
  if (what_stands_at(path) != "a file") return std::nullopt;
  const nlohmann::json config = read_json(path, kLargestConfig);
  const auto found = config.is_object() ? config.find(key) : config.end();
  if (!config.is_object() || found == config.end() || found->is_null()) return std::nullopt;
  if (!found->is_number_integer() || *found < 0 || *found > INT32_MAX)
    fail(path.string(), ": ", key, ": expected an id, got ", brief(*found));
  return found->get<int32_t>();
}

// Characters of a text that come from a message.
struct Written {
  TextRange range;
  Origin origin;
};

}  // namespace

struct ChatTemplate::State {
  std::string name;  // for errors
  Sources sources;
  struct Compiled {
    jinja::Template tree;
    bool has_generation, has_date;
    std::vector<std::string> headers = {};  // what may stand before an answer, the likeliest first
    std::vector<std::string> ends = {};     // what ends an answer's turn
  };
  std::map<std::string, Compiled> compiled;
  std::map<std::string, std::exception_ptr> broken;  // of several templates those that no conversation may need
  std::map<std::string, Value> variables;            // special tokens and what config.chat_template_kwargs says
  std::string kwargs, date;
  std::optional<jinja::DateTime> now;
  std::shared_ptr<const Vocabulary> vocabulary;  // null: opened without a tokenizer
  std::vector<int32_t> controls;                 // that a built-in template made of text tokens
  std::vector<std::string> ends_of_turn;
  std::optional<int32_t> bos;

  const Compiled& of(const Conversation& conversation) const {
    const bool has_tools = !conversation.tools.is_none() && sources.contains(kToolUse);
    if (const auto error = broken.find(has_tools ? kToolUse : kDefault); error != broken.end())
      std::rethrow_exception(error->second);
    const auto tool_use = compiled.find(kToolUse), other = compiled.find(kDefault);
    if (!conversation.tools.is_none() && tool_use != compiled.end()) return tool_use->second;
    if (other != compiled.end()) return other->second;
    std::string names;
    for (const auto& [its_name, one] : compiled) names += (names.empty() ? "" : ", ") + its_name;
    fail(name, ": has several chat templates and none is called default: give --chat_template one of ", names);
  }

  jinja::Rendered render(const Compiled& one, const Conversation& conversation, bool add_generation_prompt) const {
    std::vector<Value> messages;
    for (const Message& message : conversation.messages) messages.push_back(message.value);
    std::map<std::string, Value> all = variables;
    all["messages"] = Value::list(std::move(messages));
    all["tools"] = conversation.tools;
    all["documents"] = conversation.documents;
    all["add_generation_prompt"] = add_generation_prompt;
    jinja::Options options;
    if (one.has_date && !now)
      fail(name, ": writes a date: set template_date, such as 2025-03-07, so that every run sees the same text");
    if (now) options.now = *now;
    try {
      return one.tree.render(all, options);
    } catch (const jinja::RenderError& error) {
      fail("the chat template ",
           error.is_chosen_by_template() ? "refuses the messages: " : "cannot be rendered: ", error.reason());
    }
  }

  void learn_form(Compiled& one) const;
  void add_end(Compiled& one, const std::string& after, const std::string& later) const;
  void mark_generations(const jinja::Rendered& rendered, const Conversation& conversation,
                        const std::vector<Written>& parts, ChatText& chat) const;
  void mark_answers(const Compiled& one, const jinja::Rendered& rendered, const Conversation& conversation,
                    const std::vector<Written>& parts, ChatText& chat) const;
  void choose(const fs::path& folder, const DataConfig& config, const FolderTokens& tokens, const Tokenizer* tokenizer);
  void read_record(const fs::path& folder);
  bool take_built_in(const std::string& name, const fs::path& folder, const Tokenizer* tokenizer);
};

namespace {

std::vector<TextRange> users_of(const jinja::Rendered& rendered) {
  std::vector<TextRange> users;
  for (const auto& run : rendered.origins) {
    if (run.origin < 0) continue;
    const TextRange range{static_cast<uint32_t>(run.begin), static_cast<uint32_t>(run.end)};
    if (!users.empty() && users.back().end == range.begin)
      users.back().end = range.end;
    else
      users.push_back(range);
  }
  return users;
}

std::vector<Written> parts_of(const jinja::Rendered& rendered) {
  std::vector<Written> parts;
  for (const auto& run : rendered.origins)
    if (const auto origin = Origin::of(run.origin); origin && origin->part != MessagePart::kRole)
      parts.push_back({{static_cast<uint32_t>(run.begin), static_cast<uint32_t>(run.end)}, *origin});
  return parts;
}

// Where the first of the texts ends in what lies between two places; of two at one place the longer. npos: none is
// there.
size_t end_of_turn(std::string_view text, size_t begin, size_t limit, const std::vector<std::string>& ends) {
  const std::string_view between = text.substr(begin, limit - begin);
  size_t nearest = std::string_view::npos, length = 0;
  for (const std::string& end : ends) {
    const size_t at = between.find(end);
    if (at == std::string_view::npos || at > nearest || (at == nearest && end.size() <= length)) continue;
    nearest = at;
    length = end.size();
  }
  return nearest == std::string_view::npos ? nearest : begin + nearest + length;
}

// The text between an answer, which is that message, and what stands before it, and the text between it and what
// follows.
std::pair<std::string, std::string> around(size_t answer, const jinja::Rendered& rendered) {
  size_t before = 0, begin = std::string::npos, end = 0, after = rendered.text.size();
  for (const Written& part : parts_of(rendered)) {
    if (part.origin.message == answer) {
      begin = std::min<size_t>(begin, part.range.begin);
      end = part.range.end;
    } else if (begin == std::string::npos) {
      before = part.range.end;
    } else {
      after = std::min<size_t>(after, part.range.begin);
    }
  }
  if (begin == std::string::npos || after < end) return {};
  return {rendered.text.substr(before, begin - before), rendered.text.substr(end, after - end)};
}

std::string without_blanks_at_end(std::string text) {
  while (!text.empty() && std::string_view(" \n\t\r").find(text.back()) != std::string_view::npos) text.pop_back();
  return text;
}

constexpr const char* kCall = R"([{"role": "user", "content": "question"},
  {"role": "assistant", "content": "", "tool_calls": [
    {"id": "callnumb1", "type": "function", "function": {"name": "find", "arguments": {"word": "question"}}}]},
  {"role": "tool", "name": "find", "tool_call_id": "callnumb1", "content": "found"},
  {"role": "assistant", "content": "answer"}])";

}  // namespace

// What the template writes around a question and its answer, by an example.
void ChatTemplate::State::learn_form(Compiled& one) const {
  one.ends = ends_of_turn;
  const auto add_header = [&one](const std::string& header) {
    if (!header.empty()) one.headers.push_back(header);
  };
  // Some templates want a system text.
  for (const char* system : {"", "system"}) try {
      Conversation asked, answered, asked_again;
      for (Conversation* chat : {&asked, &answered, &asked_again}) {
        if (*system) chat->say("system", system);
        chat->say("user", "question");
      }
      for (Conversation* chat : {&answered, &asked_again}) chat->say("assistant", "answer");
      asked_again.say("user", "more");
      const std::string plain = render(one, asked, false).text, prompt = render(one, asked, true).text;
      if (prompt.size() > plain.size() && prompt.starts_with(plain)) {
        const std::string header = prompt.substr(plain.size());
        add_header(header);
        if (const size_t thinking = header.find("<think>"); thinking != std::string::npos)
          add_header(header.substr(0, thinking));
      }
      const auto [before, after] = around(answered.messages.size() - 1, render(one, answered, false));
      add_header(without_blanks_at_end(before));
      add_end(one, after, around(answered.messages.size() - 1, render(one, asked_again, false)).second);
      break;
    } catch (const UserError&) {  // it wants more: answers begin with their own text and end as others do
    }
  try {  // behind what a tool has said
    const Conversation called = read_conversation(kCall, "a conversation with a call of tools");
    add_header(without_blanks_at_end(around(called.messages.size() - 1, render(one, called, false)).first));
  } catch (const UserError&) {  // a template without tools
  }
}

// The end of a turn that no family is known for: the first control token behind an answer, or else all that follows it.
// `later`: what stands behind an answer that is not the last.
void ChatTemplate::State::add_end(Compiled& one, const std::string& after, const std::string& later) const {
  const bool is_known = end_of_turn(after, 0, after.size(), one.ends) != std::string::npos;
  if (is_known && end_of_turn(later, 0, later.size(), one.ends) != std::string::npos) return;
  std::string end = is_known ? "" : without_blanks_at_end(after);
  if (vocabulary)
    for (const int32_t id : vocabulary->encode(after, Spelling::kAsFile).ids)
      if (vocabulary->is_control(id)) {
        end = vocabulary->piece(id);
        break;
      }
  end.erase(0, end.find_first_not_of(" \n\t\r"));
  if (!end.empty() && (!is_known || later.find(end) != std::string::npos)) one.ends.push_back(end);
}

bool ChatTemplate::State::take_built_in(const std::string& wanted, const fs::path& folder, const Tokenizer* tokenizer) {
  const auto& all = built_in_templates();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const BuiltInTemplate& one) { return wanted == one.name; });
  if (found == all.end()) return false;
  name = wanted;
  std::string user = found->user_text, assistant = found->assistant_text;
  if (found->user_id >= 0 && tokenizer) {
    const auto take = [&](const char* key, int32_t otherwise, std::string& text) {
      const int32_t id = id_in_generation_config(folder, key).value_or(otherwise);
      if (id >= tokenizer->size())
        fail("chat_template ", name, ": needs the token ", id, ", and ", tokenizer->path().string(), " has ",
             tokenizer->size());
      controls.push_back(id);
      text = tokenizer->piece(id);
      const auto vocabulary = tokenizer->vocabulary().with_control({id});
      if (!vocabulary->is_control(id) || vocabulary->encode(text, Spelling::kAsFile).ids != std::vector<int32_t>{id})
        fail("chat_template ", name, ": takes token ", id, " for the beginning of a turn, which in ",
             tokenizer->path().string(), " is ", brief(text), ": that is no vocabulary of Baichuan's");
    };
    take("user_token_id", found->user_id, user);
    take("assistant_token_id", found->assistant_id, assistant);
  }
  sources = {{kDefault, with_tokens(found->source, user, assistant)}};
  return true;
}

void ChatTemplate::State::read_record(const fs::path& folder) {
  name = folder.string();
  const fs::path path = folder / kTemplateFile;
  sources = {{kDefault, read_template(folder / kChatTemplateFile)}};
  if (what_stands_at(path) != "a file") return;
  const nlohmann::ordered_json record = read_ordered_json(path);
  if (!record.is_object()) fail(path.string(), ": expected an object");
  const auto text = [&](const nlohmann::ordered_json& value, const char* key) {
    if (!value.is_string()) fail(path.string(), ": ", key, ": expected a text, got ", brief(value));
    return value.get<std::string>();
  };
  if (const auto more = record.find(kMoreKey); more != record.end() && more->is_object())
    for (const auto& [its_name, source] : more->items()) sources[its_name] = text(source, kMoreKey);
  if (const auto given = record.find(kKwargsKey); given != record.end() && kwargs.empty()) kwargs = given->dump();
  if (const auto given = record.find(kDateKey); given != record.end() && date.empty()) date = text(*given, kDateKey);
  if (const auto given = record.find(kControlsKey); given != record.end() && given->is_array())
    for (const auto& id : *given)
      if (id.is_number_integer() && id >= 0 && id <= INT32_MAX) controls.push_back(id.get<int32_t>());
}

void ChatTemplate::State::choose(const fs::path& folder, const DataConfig& config, const FolderTokens& tokens,
                                 const Tokenizer* tokenizer) {
  const std::string& wanted = config.chat_template;
  if (!wanted.empty()) {
    if (take_built_in(wanted, folder, tokenizer)) return;
    Sources own = sources_of(folder, tokens);
    if (const auto found = own.find(wanted); found != own.end()) {
      name = folder.string();
      sources = {{kDefault, found->second}};
      return;
    }
    if (what_stands_at(wanted) != "a file")
      fail("chat_template: expected a file or one of ", list_of_names(), ", got ", brief(wanted));
    name = wanted;
    sources = {{kDefault, read_template(wanted)}};
    return;
  }
  if (!config.chat_record.empty()) return read_record(config.chat_record);
  name = folder.string();
  if (what_stands_at(folder) != "a folder") fail(name, ": no such folder");
  sources = sources_of(folder, tokens);
  if (sources.empty())
    fail(folder.string(), ": has no chat template, which conversations need (chat_template.jinja, or chat_template in ",
         "tokenizer_config.json): give --chat_template a file or one of ", list_of_names());
}

ChatTemplate ChatTemplate::open(const fs::path& folder, const DataConfig& config, const Tokenizer* tokenizer) try {
  const auto state = std::make_shared<State>();
  const FolderTokens tokens = read_folder_tokens(folder);
  state->kwargs = config.chat_template_kwargs.text;
  state->date = config.template_date;
  state->choose(folder, config, tokens, tokenizer);
  for (const auto& [name, text] : tokens.special) state->variables[name] = text;
  if (!state->kwargs.empty()) {
    const Value given = jinja::from_json(state->kwargs, "chat_template_kwargs");
    if (!given.is_dict()) fail("chat_template_kwargs: expected a JSON object, got ", brief(state->kwargs));
    state->kwargs = nlohmann::ordered_json::parse(state->kwargs).dump();  // however it was spaced
    for (const jinja::Entry& entry : given.mapping().entries()) {
      const std::string key = entry.first.text().string();
      for (const char* ours : {"messages", "tools", "documents", "add_generation_prompt"})
        if (key == ours) fail("chat_template_kwargs: ", key, " is no variable of yours: it comes from the row");
      state->variables[key] = entry.second;
    }
  }
  if (!state->date.empty()) {
    const std::optional<Date> date = parse_date(state->date);
    if (!date) fail("template_date: expected a date such as 2025-03-07, got ", brief(state->date));
    state->now = jinja::DateTime{.year = date->year,
                                 .month = date->month,
                                 .day = date->day,
                                 .hour = date->hour,
                                 .minute = date->minute,
                                 .second = date->second};
  }
  state->ends_of_turn = known_ends_of_turn();
  if (tokenizer) {
    state->vocabulary = tokenizer->vocabulary().with_control(state->controls);
    state->ends_of_turn = tokenizer->ends_of_turn();
    state->bos = tokenizer->vocabulary().id_of(tokens.special_text("bos_token"));
  }
  if (const std::string eos = tokens.special_text("eos_token"); !eos.empty()) state->ends_of_turn.push_back(eos);
  for (const auto& [name, source] : state->sources) {
    const std::string place =
        state->name + (state->sources.size() > 1 ? " (chat template " + name + ")" : " (chat template)");
    const auto has = [&source = source](const char* word) { return source.find(word) != std::string::npos; };
    try {
      State::Compiled one{jinja::Template::compile(source, place), has("endgeneration"), has("strftime_now")};
      state->learn_form(one);
      state->compiled.emplace(name, std::move(one));
    } catch (const UserError&) {
      if (state->sources.size() == 1) throw;
      state->broken[name] = std::current_exception();
    }
  }
  ChatTemplate opened;
  opened.state_ = state;
  return opened;
} catch (...) {
  rethrow_as_error();
}

ChatTemplate ChatTemplate::open(const fs::path& folder, const DataConfig& config) {
  return open(folder, config, nullptr);
}
ChatTemplate ChatTemplate::open(const Tokenizer& tokenizer, const DataConfig& config) {
  return open(tokenizer.path().parent_path(), config, &tokenizer);
}

const std::vector<std::string>& ChatTemplate::names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const BuiltInTemplate& one : built_in_templates()) list.emplace_back(one.name);
    return list;
  }();
  return names;
}

std::vector<int64_t> ChatTemplate::stop_token_ids() const {
  RANKFOLD_CHECK(state_->vocabulary, "ChatTemplate::stop_token_ids: opened without a tokenizer");
  std::set<int64_t> ids;
  for (const auto& [name, one] : state_->compiled)
    for (const std::string& end : one.ends)
      if (const auto id = state_->vocabulary->id_of(end); id && state_->vocabulary->is_control(*id)) ids.insert(*id);
  return {ids.begin(), ids.end()};
}

bool ChatTemplate::uses_date() const {
  return std::any_of(state_->compiled.begin(), state_->compiled.end(),
                     [](const auto& one) { return one.second.has_date; });
}

uint64_t ChatTemplate::fingerprint() const {
  constexpr int kRules = 1;  // to be raised where a change of ours gives a conversation other ids or labels
  nlohmann::json all = {{"rules", kRules}, {"sources", state_->sources}, {"kwargs", state_->kwargs}};
  all["controls"] = state_->controls, all["ends"] = state_->ends_of_turn;
  if (uses_date()) all["date"] = state_->date;
  for (const auto& [name, value] : state_->variables)
    if (value.is_text()) all["variables"][name] = value.text().string();
  const std::string text = all.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  return checksum64(std::as_bytes(std::span(text)));
}

std::map<std::string, std::string> ChatTemplate::files() const {
  const auto own = state_->sources.find(kDefault);
  return {{kChatTemplateFile, own == state_->sources.end() ? state_->sources.begin()->second : own->second}};
}

std::string ChatTemplate::record() const {
  nlohmann::ordered_json record = {{kFileKey, kChatTemplateFile}};
  for (const auto& [name, source] : state_->sources)
    if (name != kDefault) record[kMoreKey][name] = source;
  if (!state_->kwargs.empty()) record[kKwargsKey] = nlohmann::ordered_json::parse(state_->kwargs);
  if (uses_date()) record[kDateKey] = state_->date;
  if (!state_->controls.empty()) record[kControlsKey] = state_->controls;
  return record.dump();
}

std::string ChatTemplate::render(const std::string& conversation, bool add_generation_prompt) const try {
  return render(read_conversation(conversation, "messages"), add_generation_prompt).text;
} catch (...) {
  rethrow_as_error();
}

std::vector<int32_t> ChatTemplate::encode(const std::string& conversation, bool add_generation_prompt) const try {
  return encode(read_conversation(conversation, "messages"), add_generation_prompt);
} catch (...) {
  rethrow_as_error();
}

std::vector<int32_t> ChatTemplate::encode(const Conversation& conversation, bool add_generation_prompt) const {
  RANKFOLD_CHECK(state_->vocabulary, "ChatTemplate::encode: opened without a tokenizer");
  const ChatText chat = render(conversation, add_generation_prompt);
  Tokens tokens;
  state_->vocabulary->encode(chat.text, chat.users, tokens);
  return tokens.ids;
}

namespace {

// Templates that know texts alone print a list of parts as Python does, which no model was trained on.
void refuse_printed_parts(const Conversation& conversation, const jinja::Rendered& rendered,
                          const std::vector<Written>& parts) {
  for (const Written& part : parts) {
    const Value* content = conversation.messages[part.origin.message].value.find("content");
    if (part.origin.part != MessagePart::kText || !content || !content->is_list() || content->items().empty()) continue;
    const Value& first = content->items().front();
    if (!first.is_dict() || first.mapping().entries().empty()) continue;
    const std::string opening = "[{'" + first.mapping().entries().front().first.text().string() + "': ";
    const auto text = std::string_view(rendered.text).substr(part.range.begin, part.range.end - part.range.begin);
    if (text.find(opening) != std::string_view::npos)
      fail("the chat template does not know content in parts (messages[", part.origin.message,
           "]), and would print the list itself: give the content as a text");
  }
}

// Messages with something in it that the text lacks, in words.
std::vector<std::string> left_out_of(const Conversation& conversation, const jinja::Rendered& rendered,
                                     const std::vector<Written>& parts) {
  const size_t count = conversation.messages.size();
  std::vector<std::array<size_t, 2>> written(count, {0, 0});
  for (const Written& part : parts) {
    if (part.origin.message >= count || part.origin.part > MessagePart::kThinking) continue;
    const auto text = std::string_view(rendered.text).substr(part.range.begin, part.range.end - part.range.begin);
    written[part.origin.message][static_cast<size_t>(part.origin.part)] += size_without_blanks(text);
  }
  std::vector<std::string> left_out;
  const auto add = [&left_out](const std::string& what) {
    if (std::find(left_out.begin(), left_out.end(), what) == left_out.end()) left_out.push_back(what);
  };
  for (size_t i = 0; i < count; ++i) {
    const Message& message = conversation.messages[i];
    const std::string role = message.is_assistant ? "assistant" : message.role;
    if (written[i][0] == 0 && message.text_size > 0)
      add(role + " text");
    else if (written[i][0] < message.text_size)
      add("a part of " + role + " text");
    if (written[i][1] < message.thinking_size) add("reasoning");
  }
  return left_out;
}

bool is_of(const Written& part, TextRange range) {
  return part.range.begin < range.end && part.range.end > range.begin;
}

}  // namespace

// What a generation block wrote, unless it is of an answer that is not to be learnt.
void ChatTemplate::State::mark_generations(const jinja::Rendered& rendered, const Conversation& conversation,
                                           const std::vector<Written>& parts, ChatText& chat) const {
  const auto& messages = conversation.messages;
  const bool all_learnt =
      std::all_of(messages.begin(), messages.end(), [](const Message& m) { return m.is_learnt || !m.is_assistant; });
  for (const auto& block : rendered.generations) {
    const TextRange range{static_cast<uint32_t>(block.begin), static_cast<uint32_t>(block.end)};
    const bool is_learnt = all_learnt || std::any_of(parts.begin(), parts.end(), [&](const Written& part) {
                             return is_of(part, range) && messages[part.origin.message].is_learnt;
                           });
    if (is_learnt) chat.learnt.push_back(range);
  }
}

// An answer is what comes from an assistant's message, what the template writes between, and what follows up to the end
// of the turn. What stands before it is the template's, but for what opens a call of tools, which the model must say
// itself.
void ChatTemplate::State::mark_answers(const Compiled& one, const jinja::Rendered& rendered,
                                       const Conversation& conversation, const std::vector<Written>& parts,
                                       ChatText& chat) const {
  const std::string& text = rendered.text;
  const auto next_user = [&](size_t from) {
    const auto at = std::lower_bound(chat.users.begin(), chat.users.end(), from,
                                     [](const TextRange& range, size_t wanted) { return range.begin < wanted; });
    return at == chat.users.end() ? text.size() : at->begin;
  };
  std::vector<bool> has_ended(conversation.messages.size());
  for (size_t i = 0; i < parts.size();) {
    const size_t before = i == 0 ? 0 : parts[i - 1].range.end;
    const Written& first = parts[i];
    size_t begin = first.range.begin, end = begin;
    // A message that goes on behind an end of turn does so to another such end; else another turn only names it.
    const bool must_end = has_ended[first.origin.message];
    bool has_end = false;
    for (bool goes_on = true; goes_on;) {
      size_t last = parts[i].range.end;
      const auto follows = [&](size_t part) {
        return part < parts.size() && parts[part].origin.message == first.origin.message &&
               next_user(last) == parts[part].range.begin;
      };
      for (++i; follows(i) && end_of_turn(text, last, parts[i].range.begin, one.ends) == std::string::npos; ++i)
        last = parts[i].range.end;
      const size_t stop = end_of_turn(text, last, next_user(last), one.ends);
      if (!has_end || stop != std::string::npos) end = stop == std::string::npos ? last : stop;
      has_end = has_end || stop != std::string::npos;
      goes_on = follows(i);
    }
    has_ended[first.origin.message] = must_end || has_end;
    if (!conversation.messages[first.origin.message].is_learnt || (must_end && !has_end)) continue;
    if (first.origin.part == MessagePart::kCall) {
      const std::string_view opening = std::string_view(text).substr(before, begin - before);
      for (const std::string& header : one.headers)
        if (const size_t at = opening.rfind(header); at != std::string_view::npos) {
          begin = before + at + header.size();
          break;
        }
    }
    chat.learnt.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(end)});
    chat.lacks_end = chat.lacks_end || !has_end;
  }
}

ChatText ChatTemplate::render(const Conversation& conversation, bool add_generation_prompt) const {
  const State::Compiled& one = state_->of(conversation);
  jinja::Rendered rendered = state_->render(one, conversation, add_generation_prompt);
  const std::vector<Written> parts = parts_of(rendered);
  refuse_printed_parts(conversation, rendered, parts);
  ChatText chat{
      .text = {}, .users = users_of(rendered), .learnt = {}, .left_out = left_out_of(conversation, rendered, parts)};
  if (one.has_generation)
    state_->mark_generations(rendered, conversation, parts, chat);
  else
    state_->mark_answers(one, rendered, conversation, parts, chat);
  chat.text = std::move(rendered.text);
  return chat;
}

ChatExample ChatEncoder::operator()(const Conversation& given) const {
  const ChatTemplate::State& state = *template_.state_;
  RANKFOLD_ASSERT(state.vocabulary);
  Conversation conversation = given;
  auto& messages = conversation.messages;
  if (config_.train_on_last_turn) {
    const auto last = std::find_if(messages.rbegin(), messages.rend(), [](const Message& m) { return m.is_learnt; });
    for (auto earlier = last == messages.rend() ? last : last + 1; earlier != messages.rend(); ++earlier)
      earlier->is_learnt = false;
  }
  if (config_.train_on_prompt)  // all but the answers that are switched off: those are what is looked for
    for (Message& message : messages) message.is_learnt = message.is_assistant && !message.is_learnt;
  ChatText chat = template_.render(conversation, false);
  Tokens tokens;
  state.vocabulary->encode(chat.text, chat.users, tokens);
  ChatExample result{.example = {.input_ids = std::move(tokens.ids), .labels = {}},
                     .left_out = std::move(chat.left_out),
                     .lacks_end = chat.lacks_end};
  auto& [ids, labels] = result.example;
  labels.assign(ids.size(), static_cast<int32_t>(kIgnoreIndex));
  const std::vector<TextRange>& ranges = tokens.ranges;
  if (config_.train_on_prompt) {
    labels = ids;
    if (!ids.empty() && state.bos == ids[0]) labels[0] = static_cast<int32_t>(kIgnoreIndex);
    result.lacks_end = false;
    const auto is_off = [](const Message& message) { return message.is_assistant && message.is_learnt; };
    if (std::none_of(messages.begin(), messages.end(), is_off)) return result;
  }
  size_t token = 0;
  for (const TextRange& range : chat.learnt) {
    while (token < ids.size() && ranges[token].end <= range.begin) ++token;
    size_t last = token;  // behind the last that has a character of it
    for (size_t i = token; i < ids.size() && ranges[i].begin < range.end; ++i)
      if (ranges[i].end > range.begin) last = i + 1;
    for (size_t i = token; i < last; ++i)
      labels[i] = config_.train_on_prompt ? static_cast<int32_t>(kIgnoreIndex) : ids[i];
  }
  return result;
}

}  // namespace rankfold
