#include "cli/prompt_file.h"

#include "core/check.h"
#include "core/file.h"
#include "core/json.h"
#include "core/utf8.h"
#include "data/rows.h"
#include "rankfold/tokenizer.h"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace rankfold {
namespace {

using Json = nlohmann::ordered_json;

std::string as_line(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

GivenPrompt prompt_of(const Json& row, const std::string& place) {
  const bool has_prompt = row.contains("prompt"), has_messages = row.contains("messages");
  if (has_prompt == has_messages) fail(place, ": expected prompt or messages, got ", has_prompt ? "both" : "neither");
  if (has_messages) {
    Json conversation;  // what else the row has is no part of it
    for (const char* key : {"messages", "tools", "documents"})
      if (row.contains(key)) conversation[key] = row.at(key);
    return {place, read_conversation(conversation.dump(), place), as_line(row)};
  }
  const Json& prompt = row.at("prompt");
  if (!prompt.is_string() || prompt.get<std::string>().empty())
    fail(place, ": prompt: expected a text, got ", brief(prompt));
  return {place, prompt.get<std::string>(), as_line(row)};
}

std::vector<GivenPrompt> lines_of(const std::string& text, const std::string& name) {
  std::vector<GivenPrompt> prompts;
  for (size_t begin = 0, number = 1; begin < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    if (line.ends_with('\r')) line.pop_back();
    if (!line.empty()) prompts.push_back({join(name, ":", number), line, as_line(Json{{"prompt", line}})});
    begin = end + 1;
  }
  return prompts;
}

}  // namespace

std::vector<GivenPrompt> read_prompts(const std::filesystem::path& file) {
  std::string text = read_text(file);
  check_utf8(text, file.string());
  if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
  std::vector<GivenPrompt> prompts;
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && (text[first] == '{' || text[first] == '[')) {
    const RowFile rows = RowFile::open(file);
    for (int64_t i = 0; i < rows.size(); ++i) {
      static_cast<void>(rows[i]);  // an object, told with its column where it is none
      prompts.push_back(prompt_of(parse_ordered_json(rows.text(i), rows.place(i)), rows.place(i)));
    }
  } else {
    prompts = lines_of(text, file.string());
  }
  if (prompts.empty()) fail(file.string(), ": expected prompts, got none");
  return prompts;
}

std::string completion_lines(const std::vector<GivenPrompt>& prompts, const std::vector<Completion>& completions,
                             const GenerateConfig& config, const Tokenizer& tokenizer) {
  std::string lines;
  for (size_t i = 0; i < completions.size(); ++i) {
    const Completion& completion = completions[i];
    Json line = Json::parse(prompts[static_cast<size_t>(completion.prompt)].row);
    if (config.num_return_sequences > 1) line["sample"] = static_cast<int64_t>(i) % config.num_return_sequences;
    line["completion"] = completion.text;
    line["finish_reason"] = word_of(completion.reason);
    line["tokens"] = completion.ids.size();
    if (config.log_probabilities) {
      line["ids"] = completion.ids;
      line["pieces"] = Json::array();
      for (const int32_t id : completion.ids)  // a padded embedding has ids of no piece
        line["pieces"].push_back(id < tokenizer.size() ? tokenizer.piece(id) : "");
      line["log_probabilities"] = completion.log_probabilities;
    }
    lines += as_line(line) + "\n";
  }
  return lines;
}

}  // namespace rankfold
