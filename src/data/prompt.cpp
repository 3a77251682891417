#include "data/prompt.h"

#include "core/check.h"
#include "core/json.h"
#include "core/utf8.h"
#include "data/tokenizer_model.h"
#include "rankfold/tokenizer.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <string_view>

namespace rankfold {
namespace {

// Empty name: the layout has no such part.
struct Layout {
  const char* question;
  const char* input;  // may be absent: a second part of the question
  const char* answer;
};
constexpr std::array<Layout, 5> kLayouts = {{{"question", "", "answer"},
                                             {"instruction", "input", "output"},
                                             {"prompt", "", "completion"},
                                             {"query", "", "response"},
                                             {"", "", "text"}}};
constexpr const char* kExpected =
    "question/answer, instruction/output, prompt/completion, query/response, text or input_ids";

class Row {
 public:
  Row(const nlohmann::json& row, const std::string& place, const Columns& columns)
      : row_(row), place_(place), columns_(columns) {}

  bool has(const std::string& ours) const { return row_.contains(theirs(ours)); }
  bool maps(const std::string& ours) const { return columns_.contains(ours); }
  const std::string& theirs(const std::string& ours) const {
    const auto found = columns_.find(ours);
    return found == columns_.end() ? ours : found->second;
  }
  const nlohmann::json& at(const std::string& ours) const { return row_.at(theirs(ours)); }

  const std::string& text(const std::string& ours) const {
    const nlohmann::json& value = at(ours);
    if (!value.is_string()) fail_at(ours, "expected a text, got ", brief(value));
    return value.get_ref<const std::string&>();
  }

  std::vector<int32_t> ids(const std::string& ours, int64_t vocab_size, bool may_ignore) const {
    const nlohmann::json& list = at(ours);
    if (!list.is_array() || list.empty()) fail_at(ours, "expected a list of ids, got ", brief(list));
    std::vector<int32_t> ids;
    ids.reserve(list.size());
    for (const nlohmann::json& x : list) {
      const bool is_id = x.is_number_integer() && !(x.is_number_unsigned() && x.get<uint64_t>() > INT32_MAX);
      const int64_t id = is_id ? x.get<int64_t>() : -1;
      if ((id < 0 || id >= vocab_size) && !(may_ignore && id == kIgnoreIndex))
        fail_at(ours, "entry ", ids.size(), ": expected ", may_ignore ? "-100 or " : "", "an id in [0, ", vocab_size,
                ") (rows of the embedding), got ", brief(x));
      ids.push_back(static_cast<int32_t>(id));
    }
    return ids;
  }

  template <class... Parts>
  [[noreturn]] void fail_at(const std::string& ours, const Parts&... parts) const {
    fail(place_, ": ", theirs(ours), ": ", parts...);
  }

 private:
  const nlohmann::json& row_;
  const std::string& place_;
  const Columns& columns_;
};

Example ready_ids(const Row& row, int64_t vocab_size) {
  Example example{.input_ids = row.ids("input_ids", vocab_size, false), .labels = {}};
  example.labels = row.has("labels") ? row.ids("labels", vocab_size, true) : example.input_ids;
  if (example.labels.size() != example.input_ids.size())
    row.fail_at("labels", "expected ", example.input_ids.size(), " entries as in ", row.theirs("input_ids"), ", got ",
                example.labels.size());
  return example;
}

Prompted prompted(const Row& row, const Layout& layout) {
  const std::string question = layout.question, input = layout.input;
  Prompted said{.prompt_question = {}, .answer = row.text(layout.answer), .has_prompt = !question.empty()};
  if (said.answer.empty()) row.fail_at(layout.answer, "is empty");
  if (!said.has_prompt) return said;
  said.prompt_question = row.text(question);
  if (!input.empty() && row.has(input) && !row.at(input).is_null()) {
    const std::string& more = row.text(input);
    if (!said.prompt_question.empty() && !more.empty()) said.prompt_question += '\n';
    said.prompt_question += more;
  }
  if (said.prompt_question.empty()) row.fail_at(question, "is empty");
  return said;
}

}  // namespace

void check_columns(const Columns& columns) {
  std::vector<std::string> ours = {"input_ids", "labels"};
  for (const Layout& layout : kLayouts)
    for (const char* name : {layout.question, layout.input, layout.answer})
      if (*name) ours.push_back(name);
  for (const auto& [name, theirs] : columns)
    if (std::find(ours.begin(), ours.end(), name) == ours.end())
      fail("columns: no column is called '", name, "'", did_you_mean(nearest(name, ours)));
}

std::variant<Prompted, Example> read_row(const nlohmann::json& json, const std::string& place, const Columns& columns,
                                         int64_t vocab_size) {
  const auto keys = [&json] {
    constexpr size_t kLongest = 200;
    std::string list;
    for (const auto& [key, value] : json.items()) {
      list += (list.empty() ? "" : ", ") + key;
      if (list.size() > kLongest) return list.substr(0, utf8_floor(list, kLongest)) + "...";
    }
    return list;
  };
  const Row row(json, place, columns);
  for (const auto& [ours, theirs] : columns)
    if (!json.contains(theirs)) fail(place, ": no '", theirs, "' (columns: ", ours, "), got keys [", keys(), "]");

  for (const bool mapped : {true, false}) {
    if (row.has("input_ids") && row.maps("input_ids") == mapped) return ready_ids(row, vocab_size);
    for (const Layout& layout : kLayouts) {
      const bool complete = row.has(layout.answer) && (!*layout.question || row.has(layout.question));
      const bool named = row.maps(layout.question) || row.maps(layout.answer);
      if (complete && named == mapped) return prompted(row, layout);
    }
  }
  fail(place, ": expected ", kExpected, ", got keys [", keys(), "]");
}

void check_template(const std::string& prompt_template) {
  constexpr size_t kLongest = 64 << 10;
  if (prompt_template.size() > kLongest)
    fail("prompt_template: expected at most ", kLongest, " bytes, got ", prompt_template.size());
}

std::string render_prompt(const std::string& prompt_template, const std::string& question) {
  constexpr std::string_view kPlace = "{question}";
  check_template(prompt_template);
  std::string prompt;
  size_t begin = 0;
  for (size_t at; (at = prompt_template.find(kPlace, begin)) != std::string::npos; begin = at + kPlace.size()) {
    if (prompt.size() + question.size() > kLongestText)
      fail("a prompt of more than ", kLongestText,
           " bytes: the template says {question} too often or the question is too long");
    prompt.append(prompt_template, begin, at - begin).append(question);
  }
  return prompt.append(prompt_template, begin, std::string::npos);
}

std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, const std::string& prompt_template,
                                   const std::string& question) {
  std::vector<int32_t> ids = tokenizer.encode(render_prompt(prompt_template, question));
  if (tokenizer.bos()) ids.insert(ids.begin(), *tokenizer.bos());
  return ids;
}

}  // namespace rankfold
