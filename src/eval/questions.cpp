#include "eval/questions.h"

#include "core/check.h"
#include "core/file.h"
#include "core/json.h"
#include "core/utf8.h"
#include "data/prompt.h"
#include "data/rows.h"
#include "eval/terms.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <optional>
#include <sstream>
#include <utility>
#include <variant>

namespace rankfold {
namespace {

// The text with U+FFFD in place of each byte that is no part of a character.
std::string sound(const std::string& text) {
  if (is_utf8(text)) return text;
  std::string result;
  for (size_t at = 0, length = 0; at < text.size(); at += length) {
    for (length = 1; length < 4 && !is_utf8(text.substr(at, length)); ++length) continue;  // up to a whole character
    const bool is_character = is_utf8(text.substr(at, length));
    if (!is_character) length = 1;
    result += is_character ? text.substr(at, length) : "\xEF\xBF\xBD";
  }
  return result;
}

std::string content_of(const Message& message) {
  const jinja::Value* content = message.value.find("content");
  if (content && content->is_text()) return content->text().string();
  std::string all;
  if (content && content->is_list())
    for (const jinja::Value& part : content->items())
      if (const jinja::Value* text = part.is_dict() ? part.find("text") : nullptr; text && text->is_text())
        all += text->text().string();
  return all;
}

// Question and reference; none where the row asks nothing. The prompt is made by `encode`, of a Prompted or a
// Conversation.
template <class Encode>
std::optional<Question> question_of(const std::variant<Prompted, Example, Conversation>& row, const Encode& encode) {
  if (const Prompted* asked = std::get_if<Prompted>(&row)) {
    if (!asked->has_prompt) return std::nullopt;
    return Question{.text = asked->prompt_question, .reference = asked->answer, .prompt = encode(*asked)};
  }
  const Conversation* chat = std::get_if<Conversation>(&row);
  if (!chat) return std::nullopt;
  const Conversation before = chat->prompt();
  if (before.messages.empty()) return std::nullopt;
  const bool has_answer = before.messages.size() < chat->messages.size();
  return Question{.text = content_of(before.messages.back()),
                  .reference = has_answer ? content_of(chat->messages.back()) : "",
                  .prompt = encode(before)};
}

struct Encoder {
  const DataConfig& config;
  const AskedOf& of;

  std::vector<int32_t> operator()(const Prompted& asked) const {
    return encode_prompt(of.tokenizer, config.prompt_template, asked.prompt_question);
  }
  std::vector<int32_t> operator()(const Conversation& before) const {
    if (!of.chat_template) fail("expected a chat template for a conversation, got none");
    return of.chat_template->encode(before, true);
  }
};

// Calls visit(file, index) for every row; one that cannot be used is passed over where the config says so.
template <class Visit>
void each_row(const DataFiles& files, const DataConfig& config, const Stop& stop, const Visit& visit) {
  for (const std::string& file : files.paths) {
    const RowFile rows = RowFile::open(file);
    for (int64_t i = 0; i < rows.size(); ++i) try {
        leave_if(stop);
        visit(rows, i);
      } catch (const UserError&) {
        if (!config.skip_bad_rows) throw;
      }
  }
}

// Every text in a value, and nothing else of it.
void add_texts(const nlohmann::json& value, std::string& all) {
  if (value.is_string()) all += value.get_ref<const std::string&>() + "\n";
  if (value.is_structured())
    for (const nlohmann::json& part : value) add_texts(part, all);
}

// A text for each row, or for each line of plain text that is not blank.
std::vector<std::string> texts_of(const DataFiles& files, const DataConfig& config, const Stop& stop) {
  std::vector<std::string> texts;
  for (const std::string& file : files.paths) {
    const auto mapping = Mapping::open(file);
    const std::string_view bytes(reinterpret_cast<const char*>(mapping->data()), mapping->size());
    const size_t first = bytes.find_first_not_of(" \t\r\n\xEF\xBB\xBF");
    if (first != std::string_view::npos && (bytes[first] == '[' || bytes[first] == '{')) {
      each_row(DataFiles(file), config, stop,
               [&texts](const RowFile& rows, int64_t i) { add_texts(rows[i], texts.emplace_back()); });
      continue;
    }
    check_utf8(bytes, file);
    std::istringstream lines{std::string(bytes)};
    for (std::string line; std::getline(lines, line);)
      if (line.find_first_not_of(" \t\r") != std::string::npos) texts.push_back(std::move(line));
  }
  return texts;
}

std::vector<std::string> mined(const DataFiles& rows, const DataFiles& train, const DataFiles& base_text,
                               const DataConfig& config, const Stop& stop) {
  constexpr int64_t kAnyId = INT32_MAX;  // texts alone are looked at
  const RowReader reader(config.columns, kAnyId);
  std::vector<std::string> answers, questions;
  for (const DataFiles* files : {&rows, &train})
    each_row(*files, config, stop, [&](const RowFile& file, int64_t i) {
      const auto no_ids = [](const auto&) { return std::vector<int32_t>(); };
      if (auto row = question_of(reader.read(file[i], file.text(i), file.place(i)), no_ids)) {
        answers.push_back(std::move(row->reference));
        questions.push_back(std::move(row->text));
      }
    });
  return mine_terms(answers, base_text.paths.empty() ? questions : texts_of(base_text, config, stop));
}

}  // namespace

TermSource term_source(const std::string& said, const DataFiles& rows, const DataFiles& train,
                       const DataFiles& base_text, const DataConfig& config, const Stop& stop) {
  if (!base_text.paths.empty() && said != "mined")
    fail("--base_text: expected --terms mined with it, got ", said.empty() ? "none" : "--terms " + said);
  if (said.empty()) return {};
  std::vector<std::string> fields;  // of the first row
  bool is_field = false;
  for (const std::string& file : rows.paths) {
    const RowFile all = RowFile::open(file);
    for (int64_t i = 0; i < all.size() && !is_field; ++i) try {
        leave_if(stop);
        const nlohmann::json row = all[i];
        is_field = row.contains(said);
        if (fields.empty())
          for (const auto& [field, value] : row.items()) fields.push_back(field);
      } catch (const UserError&) {  // a broken row: told, or left out, where the rows are read
      }
  }
  if (is_field && !base_text.paths.empty())
    fail("--base_text: expected --terms mined with it, got a field of that name in ", rows.text());
  if (is_field) return {.field = said};
  if (said == "mined") {
    TermSource source{.list = mined(rows, train, base_text, config, stop), .is_mined = true};
    if (source.list.empty())
      fail("--terms mined: expected phrases that several answers of ", rows.text(),
           " have and other text has not, got none: name a field of the rows, or a file with one term per line");
    return source;
  }
  if (what_stands_at(said) == "a file") return {.list = read_terms(said)};
  fail("--terms: expected a field of the rows, mined, or a file with one term per line, got ", said,
       did_you_mean(nearest(said, fields)));
}

Questions read_questions(const DataFiles& files, const DataConfig& config, const TermSource& terms, const AskedOf& of,
                         const Stop& stop) {
  const RowReader reader(config.columns, of.vocab_size, config.questions_are_turns);
  Questions questions;
  each_row(files, config, stop, [&](const RowFile& rows, int64_t i) {
    const nlohmann::json row = rows[i];
    const std::string place = rows.place(i);
    const auto content = reader.read(row, rows.text(i), place);
    std::optional<Question> question;
    try {
      question = question_of(content, Encoder{config, of});
    } catch (const UserError& error) {
      fail(place, ": ", error.what());
    }
    if (!question) {
      if (questions.without++ == 0) questions.first_without = place;
      return;
    }
    question->terms = terms.field.empty() ? terms_wanted(question->text, question->reference, terms.list)
                                          : row_terms(row, terms.field, place);
    question->place = place;
    questions.list.push_back(*std::move(question));
  });
  return questions;
}

Answers answer(const CausalLM& model, const std::vector<Question>& questions, const GenerateConfig& config,
               const Stop& stop) {
  std::vector<std::vector<int32_t>> prompts;
  for (const Question& question : questions) prompts.push_back(question.prompt);
  Answers answers;
  const auto start = std::chrono::steady_clock::now();
  for (const Completion& completion : complete(model, prompts, config, {}, stop)) {
    answers.tokens += static_cast<int64_t>(completion.ids.size());
    answers.texts.push_back(sound(completion.text));
  }
  answers.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return answers;
}

}  // namespace rankfold
