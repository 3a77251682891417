#include "data/prompt.h"

#include "core/check.h"
#include "core/json.h"
#include "core/utf8.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <string_view>

namespace rankfold {
namespace {

// Everything about layouts follows from this table: the order in which they are looked for, the columns that they use,
// the texts of errors. An empty name: the layout has no such column.
struct Layout {
  std::string_view question;
  std::string_view input;   // a second part of the question, which a row may lack
  std::string_view answer;  // or all that there is
  bool is_ready = false;    // ids, not texts: has kReadyColumns too
  bool is_chat = false;     // a list of messages
  bool is_foreign = false;  // another trainer's names, known by the keys of `columns`
};
constexpr std::array<Layout, 9> kLayouts = {{
    {.question = "", .input = "", .answer = "input_ids", .is_ready = true},
    {.question = "question", .input = "", .answer = "answer"},
    {.question = "instruction", .input = "input", .answer = "output"},
    {.question = "prompt", .input = "", .answer = "completion"},
    {.question = "query", .input = "", .answer = "response"},
    {.question = "prompt", .input = "query", .answer = "response", .is_foreign = true},  // LLaMA-Factory
    {.question = "", .input = "", .answer = "messages", .is_chat = true},
    {.question = "", .input = "", .answer = "conversations", .is_chat = true},
    {.question = "", .input = "", .answer = "text"},
}};
constexpr std::array<std::string_view, 4> kReadyColumns = {"labels", "attention_mask", "position_ids",
                                                           "token_type_ids"};
// What a conversation has beside its messages, and what makes one of a question and its answer.
constexpr std::array<std::string_view, 4> kContexts = {"system", "tools", "documents", "history"};

// Where `columns` maps `input`, any layout with a question takes it.
std::vector<std::string> columns_of(const Layout& layout, bool maps_input = false) {
  std::vector<std::string> ours;
  const bool takes_input = maps_input && layout.input.empty() && !layout.question.empty();
  for (const std::string_view name : {layout.question, takes_input ? "input" : layout.input, layout.answer})
    if (!name.empty()) ours.emplace_back(name);
  if (layout.is_ready) ours.insert(ours.end(), kReadyColumns.begin(), kReadyColumns.end());
  return ours;
}

// Columns that a row of the layout may have for its context.
std::vector<std::string> contexts_of(const Layout& layout) {
  if (!layout.is_chat && layout.question.empty()) return {};
  std::vector<std::string> names(kContexts.begin(), kContexts.end());
  if (layout.is_chat) names.pop_back();
  return names;
}

template <class Names>
bool holds(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string listed(const std::vector<std::string>& names, const char* between = ", ",
                   const char* before_last = nullptr) {
  std::string list;
  for (size_t i = 0; i < names.size(); ++i) {
    if (i > 0) list += before_last && i + 1 == names.size() ? before_last : between;
    list += names[i];
  }
  return list;
}

std::string keys_of(const Columns& columns) {
  std::vector<std::string> keys;
  for (const auto& [ours, theirs] : columns) keys.push_back(ours);
  return listed(keys);
}

// The file's name of one of our columns. One that `columns` gives to another of ours is not found under its own name.
std::string key_of(const std::string& ours, const Columns& columns) {
  if (const auto found = columns.find(ours); found != columns.end()) return found->second;
  const auto is_taken = [&ours](const auto& mapping) { return mapping.second == ours; };
  return std::any_of(columns.begin(), columns.end(), is_taken) ? "" : ours;
}

bool is_blank(const nlohmann::json& value) {
  return value.is_null() || (value.is_structured() && value.empty()) ||
         (value.is_string() && value.get_ref<const std::string&>().empty());
}

bool is_list_of_objects(const nlohmann::json& value) {
  return value.is_array() && !value.empty() && value.front().is_object();
}

class JsonRow {
 public:
  JsonRow(const nlohmann::json& row, const std::string& place) : row_(row), place_(place) {}

  bool has(const std::string& key) const { return !key.empty() && row_.contains(key); }
  bool holds(const std::string& key) const { return has(key) && !row_.at(key).is_null(); }

  bool holds_something(const std::string& key) const { return has(key) && !is_blank(row_.at(key)); }
  bool is_list(const std::string& key) const { return has(key) && is_list_of_objects(row_.at(key)); }

  // [["question", "answer"], ...]; of a key that the row lacks, none.
  std::vector<std::pair<std::string, std::string>> turns(const std::string& key) const {
    std::vector<std::pair<std::string, std::string>> turns;
    if (!holds(key)) return turns;
    const nlohmann::json& list = row_.at(key);
    if (!list.is_array()) fail_at(key, "expected a list of [question, answer], got ", brief(list));
    for (const nlohmann::json& turn : list) {
      if (!turn.is_array() || turn.size() != 2 || !turn[0].is_string() || !turn[1].is_string())
        fail_at(key, "entry ", turns.size(), ": expected [question, answer], got ", brief(turn));
      turns.emplace_back(turn[0].get<std::string>(), turn[1].get<std::string>());
    }
    return turns;
  }

  const std::string& text(const std::string& key) const {
    const nlohmann::json& value = row_.at(key);
    if (!value.is_string()) fail_at(key, "expected a text, got ", brief(value));
    return value.get_ref<const std::string&>();
  }

  std::vector<int32_t> ids(const std::string& key, int64_t vocab_size, bool may_ignore) const {
    const nlohmann::json& list = row_.at(key);
    if (!list.is_array() || list.empty()) fail_at(key, "expected a list of ids, got ", brief(list));
    std::vector<int32_t> ids;
    ids.reserve(list.size());
    for (const nlohmann::json& x : list) {
      const bool is_id = x.is_number_integer() && !(x.is_number_unsigned() && x.get<uint64_t>() > INT32_MAX);
      const int64_t id = is_id ? x.get<int64_t>() : -1;
      if ((id < 0 || id >= vocab_size) && !(may_ignore && id == kIgnoreIndex))
        fail_at(key, "entry ", ids.size(), ": expected ", may_ignore ? "-100 or " : "", "an id in [0, ", vocab_size,
                ") (rows of the embedding), got ", brief(x));
      ids.push_back(static_cast<int32_t>(id));
    }
    return ids;
  }

  // One number for each of `count` ids, in [0, most]; a mask may say false and true.
  std::vector<int64_t> numbers(const std::string& key, size_t count, int64_t most) const {
    const nlohmann::json& list = row_.at(key);
    if (!list.is_array() || list.size() != count)
      fail_at(key, "expected a list of ", count, " numbers, one for each id, got ",
              list.is_array() ? join(list.size()) : brief(list));
    std::vector<int64_t> numbers;
    numbers.reserve(count);
    for (const nlohmann::json& x : list) {
      if (most == 1 && x.is_boolean()) {
        numbers.push_back(x.get<bool>());
        continue;
      }
      const bool is_number = x.is_number_integer() && x >= 0 && x <= most;
      if (!is_number)
        fail_at(key, "entry ", numbers.size(), ": expected an integer in [0, ", most, "], got ", brief(x));
      numbers.push_back(x.get<int64_t>());
    }
    return numbers;
  }

  std::string keys() const {
    constexpr size_t kLongest = 200;
    std::string list;
    for (const auto& [key, value] : row_.items()) {
      list += (list.empty() ? "" : ", ") + key;
      if (list.size() > kLongest) return list.substr(0, utf8_floor(list, kLongest)) + "...";
    }
    return list;
  }

  template <class... Parts>
  [[noreturn]] void fail_at(const std::string& key, const Parts&... parts) const {
    fail(place_, ": ", key, ": ", parts...);
  }
  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    fail(place_, ": ", parts...);
  }

 private:
  const nlohmann::json& row_;
  const std::string& place_;
};

// The ids that attention_mask marks, which are neighbours: what it leaves out at the ends is padding.
std::pair<size_t, size_t> attended(const JsonRow& row, const std::string& key, size_t count) {
  if (!row.holds(key)) return {0, count};
  const std::vector<int64_t> mask = row.numbers(key, count, 1);
  const auto first = std::find(mask.begin(), mask.end(), 1), last = std::find(mask.rbegin(), mask.rend(), 1).base();
  if (first == mask.end()) row.fail_at(key, "is 0 everywhere: the row has no token");
  if (const auto gap = std::find(first, last, 0); gap != last)
    row.fail_at(key, "entry ", gap - mask.begin(),
                ": got 0 between tokens that are attended to; only padding at either end can be left out");
  return {static_cast<size_t>(first - mask.begin()), static_cast<size_t>(last - mask.begin())};
}

Example ready_ids(const JsonRow& row, const RowReader::Keys& keys, int64_t vocab_size) {
  Example example{.input_ids = row.ids(keys.answer, vocab_size, false), .labels = {}};
  auto& [ids, labels] = example;
  const size_t count = ids.size();
  labels = row.has(keys.labels) ? row.ids(keys.labels, vocab_size, true) : ids;
  if (labels.size() != count)
    row.fail_at(keys.labels, "expected ", count, " entries as in ", keys.answer, ", got ", labels.size());

  const auto [begin, end] = attended(row, keys.attention_mask, count);
  for (size_t i = 0; i < count; ++i)
    if ((i < begin || i >= end) && row.has(keys.labels) && labels[i] != kIgnoreIndex)
      row.fail_at(keys.labels, "entry ", i, ": expected -100 where ", keys.attention_mask, " is 0, got ", labels[i]);
  if (row.holds(keys.position_ids)) {
    const std::vector<int64_t> positions = row.numbers(keys.position_ids, count, INT32_MAX);
    for (size_t i = begin; i < end; ++i)
      if (positions[i] != static_cast<int64_t>(i - begin))
        row.fail_at(keys.position_ids, "entry ", i, ": expected ", i - begin,
                    " (positions count from the first token; others are not supported), got ", positions[i]);
  }
  if (row.holds(keys.token_type_ids)) {
    const std::vector<int64_t> types = row.numbers(keys.token_type_ids, count, INT32_MAX);
    if (const auto other = std::find_if(types.begin(), types.end(), [](int64_t x) { return x != 0; });
        other != types.end())
      row.fail_at(keys.token_type_ids, "entry ", other - types.begin(), ": expected 0 (the model has no types), got ",
                  *other);
  }
  // The end first: the beginning moves what follows.
  for (std::vector<int32_t>* list : {&ids, &labels}) {
    list->resize(end);
    list->erase(list->begin(), list->begin() + static_cast<std::ptrdiff_t>(begin));
  }
  return example;
}

Prompted prompted(const JsonRow& row, const RowReader::Keys& keys) {
  Prompted said{.prompt_question = {}, .answer = row.text(keys.answer), .has_prompt = !keys.question.empty()};
  if (said.answer.empty()) row.fail_at(keys.answer, "is empty");
  if (!said.has_prompt) return said;
  said.prompt_question = row.text(keys.question);
  if (row.holds(keys.input)) {
    const std::string& more = row.text(keys.input);
    if (!said.prompt_question.empty() && !more.empty()) said.prompt_question += '\n';
    said.prompt_question += more;
  }
  if (said.prompt_question.empty()) row.fail_at(keys.question, "is empty");
  return said;
}

const jinja::Value* column_of(const jinja::Value& row, const std::string& key) {
  if (key.empty()) return nullptr;
  const jinja::Value* value = row.find(key);
  return value ? value : row.find(std::string(kByteOrderMark) + key);
}

// What a row has beside its messages. It is read anew: numbers and the order of keys are a template's matter.
Conversation conversation_of(const JsonRow& row, const RowReader::Keys& keys, std::string_view text,
                             const std::string& place) {
  const jinja::Value whole = jinja::from_json(text, place);
  Conversation chat;
  if (row.holds(keys.system) && !row.text(keys.system).empty()) chat.say("system", row.text(keys.system));
  if (const jinja::Value* tools = column_of(whole, keys.tools)) chat.set_tools(*tools, place + ": " + keys.tools);
  if (const jinja::Value* documents = column_of(whole, keys.documents))
    chat.set_documents(*documents, place + ": " + keys.documents);
  const size_t systems = chat.messages.size();
  if (keys.is_chat) {
    chat.add_all(*column_of(whole, keys.answer), join(place, ": ", keys.answer));
  } else if (row.is_list(keys.question) || row.is_list(keys.answer)) {  // TRL's prompt and completion
    for (const std::string& key : {keys.history, keys.input})
      if (row.holds_something(key))
        row.fail_at(key, "is given beside lists of messages, which hold every turn: leave it out");
    const auto add = [&](const std::string& key, const char* role) {
      if (row.is_list(key))
        chat.add_all(*column_of(whole, key), join(place, ": ", key));
      else
        chat.say(role, row.text(key));
    };
    add(keys.question, "user");
    for (Message& message : chat.messages) message.is_learnt = false;
    add(keys.answer, "assistant");
  } else {
    for (const auto& [question, answer] : row.turns(keys.history)) {
      chat.say("user", question);
      chat.say("assistant", answer);
    }
    const Prompted said = prompted(row, keys);
    chat.say("user", said.prompt_question);
    chat.say("assistant", said.answer);
  }
  if (systems > 0 && chat.messages.size() > systems && chat.messages[systems].role == "system")
    row.fail_at(keys.system, "is given, and the messages begin with a system text of their own: leave one out");
  return chat;
}

}  // namespace

void NameCounts::add(std::string_view name, int64_t rows) {
  constexpr size_t kLongest = 100;
  name = name.substr(0, utf8_floor(name, kLongest));
  const auto same = [&name](const NameCount& count) { return count.name == name; };
  auto at = std::find_if(counts_.begin(), counts_.end(), same);
  if (at == counts_.end() && counts_.size() >= kMostNames)
    at = std::find_if(counts_.begin(), counts_.end(), [](const NameCount& count) { return count.name.empty(); });
  if (at == counts_.end()) at = counts_.insert(at, NameCount{counts_.size() < kMostNames ? std::string(name) : "", 0});
  at->rows += rows;
}

void NameCounts::add(const NameCounts& other) {
  for (const NameCount& count : other.counts_) add(count.name, count.rows);
}

RowReader::RowReader(const Columns& columns, int64_t vocab_size, bool questions_are_turns)
    : columns_(columns), vocab_size_(vocab_size), questions_are_turns_(questions_are_turns) {
  std::vector<std::string> all, layouts, expected;
  for (const Layout& layout : kLayouts) {
    const std::vector<std::string> ours = columns_of(layout, columns.contains("input")), context = contexts_of(layout);
    all.insert(all.end(), ours.begin(), ours.end());
    all.insert(all.end(), context.begin(), context.end());
    layouts.push_back(listed(columns_of(layout)));
    const auto is_used = [&](const auto& mapping) {
      return holds(ours, mapping.first) || holds(context, mapping.first);
    };
    if (layout.is_foreign && !columns.contains(std::string(layout.question))) continue;
    if (!std::all_of(columns.begin(), columns.end(), is_used)) continue;
    const auto key = [&](std::string_view name) {
      return holds(ours, name) || holds(context, name) ? key_of(std::string(name), columns) : "";
    };
    if (!layout.question.empty() && key(layout.question).empty()) continue;
    layouts_.push_back({.question = key(layout.question),
                        .input = key(layout.input.empty() ? "input" : layout.input),
                        .answer = key(layout.answer),
                        .labels = key("labels"),
                        .attention_mask = key("attention_mask"),
                        .position_ids = key("position_ids"),
                        .token_type_ids = key("token_type_ids"),
                        .system = key("system"),
                        .history = key("history"),
                        .tools = key("tools"),
                        .documents = key("documents"),
                        .is_ready = layout.is_ready,
                        .is_chat = layout.is_chat});
    expected.push_back(layout.question.empty() ? ours.front() : join(layout.question, "/", layout.answer));
  }
  for (const auto& [name, theirs] : columns) {
    if (!holds(all, name)) fail("columns: no column is called '", name, "'", did_you_mean(nearest(name, all)));
  }
  if (layouts_.empty())
    fail("columns: ", keys_of(columns),
         ": no layout uses all of these; expected names of one of them: ", listed(layouts, "; "));
  expected_ = listed(expected, ", ", " or ") + (columns.empty() ? "" : join(" (columns: ", keys_of(columns), ")"));
}

const RowReader::Keys* RowReader::layout_of(const nlohmann::json& row) const {
  for (const auto& [ours, theirs] : columns_)
    if (!row.contains(theirs)) return nullptr;
  const auto has = [&row](const std::string& key) { return !key.empty() && row.contains(key); };
  const auto layout = std::find_if(layouts_.begin(), layouts_.end(), [&has](const Keys& keys) {
    return has(keys.answer) && (keys.question.empty() || has(keys.question));
  });
  return layout == layouts_.end() ? nullptr : &*layout;
}

std::variant<Prompted, Example, Conversation> RowReader::read(const nlohmann::json& json, std::string_view text,
                                                              const std::string& place, NameCounts* unused) const {
  const JsonRow row(json, place);
  for (const auto& [ours, theirs] : columns_)
    if (!json.contains(theirs)) row.refuse("no '", theirs, "' (columns: ", ours, "), got keys [", row.keys(), "]");

  const Keys* layout = layout_of(json);
  if (!layout) row.refuse("expected ", expected_, ", got keys [", row.keys(), "]");
  const Keys& k = *layout;
  std::variant<Prompted, Example, Conversation> content;
  if (k.is_ready)
    content = ready_ids(row, k, vocab_size_);
  else if (k.is_chat || (!k.question.empty() &&
                         (questions_are_turns_ || row.holds_something(k.system) || row.holds_something(k.history) ||
                          row.holds_something(k.tools) || row.holds_something(k.documents) || row.is_list(k.question) ||
                          row.is_list(k.answer))))
    content = conversation_of(row, k, text, place);
  else
    content = prompted(row, k);

  const std::array<std::string_view, 11> used = {k.question, k.input,     k.answer,         k.labels,
                                                 k.system,   k.history,   k.attention_mask, k.position_ids,
                                                 k.tools,    k.documents, k.token_type_ids};
  for (const auto& [key, value] : json.items()) {
    if ((holds(used, key) && !key.empty()) || is_blank(value)) continue;
    if (!k.is_ready && !k.is_chat && k.question.empty() && holds(kContexts, key))
      row.refuse(key, ": a text has no place for it: write it into the text, or leave the column out");
    if (unused) unused->add(key);
  }
  return content;
}

}  // namespace rankfold
