#include "cli/help.h"

#include "cli/console.h"
#include "core/check.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <sstream>

namespace rankfold {
namespace {

constexpr size_t kNames = 32;                     // columns of the names of flags
constexpr size_t kNarrowest = 60, kWidest = 100;  // lines

// `first` and then the words of `text`, whose lines all begin at column `indent`.
std::string paragraph(const std::string& first, const std::string& text, size_t indent) {
  const size_t most = std::clamp(terminal_columns(kWidest), kNarrowest, kWidest);
  std::string all, line = first;
  line.resize(std::max(line.size(), indent), ' ');
  bool is_empty = true;  // of words
  std::istringstream words(text);
  for (std::string word; words >> word; is_empty = false) {
    if (!is_empty && line.size() + 1 + word.size() > most) {
      all += line + "\n";
      line = std::string(indent, ' ');
      is_empty = true;
    }
    line += (is_empty ? "" : " ") + word;
  }
  return all + line + "\n";
}

std::string default_of(const Field& field) {
  nlohmann::ordered_json value;
  field.get(value);
  if (value == "" || value.is_null() || (value.is_structured() && value.empty())) return "";
  std::string text = value.dump();  // a text in quotes, which are wanted where it has more than letters
  if (value.is_string() && text.find_first_of(" \\") == std::string::npos) text = value.get<std::string>();
  if (value.is_number_float() && text.ends_with(".0")) text.resize(text.size() - 2);
  return " [" + text + "]";
}

std::string help_of(const Field& field) {
  std::string text = field.help;
  if (field.is_word) text += " (" + field.expected + ")";
  text += default_of(field);
  for (size_t i = 0; i < field.aliases.size(); ++i) text += (i ? ", --" : "; also --") + field.aliases[i];
  return paragraph("  --" + field.name, text, kNames);
}

std::string exit_codes() {
  std::string text = "Exit codes:";
  for (const auto& [code, meaning] : kExitMeanings)
    text += join(code == ExitCode::kDone ? " " : ", ", static_cast<int>(code), " ", meaning);
  return text + ".";
}

}  // namespace

std::string help_text(const AppSpec& spec, const Fields& fields) {
  const std::string name = spec.name + (spec.command.empty() ? "" : " " + spec.command);
  std::string text = paragraph("", name + ": " + spec.description, 0);
  if (!spec.commands.empty()) {
    text += "\nusage: " + name + " COMMAND ...\n";
    for (const auto& [command, what] : spec.commands) text += paragraph("  " + command, what, kNames);
    return text + "\n" + paragraph("", name + " COMMAND --help tells more.", 0) + paragraph("", exit_codes(), 0);
  }
  text += "\nusage: " + name + (spec.takes_config ? " [CONFIG.json]" : "") +
          (spec.files.empty() ? "" : " " + spec.usage) + " [--KEY VALUE ...]\n";
  if (!spec.files.empty()) text += paragraph("  " + spec.usage, "the same as --" + spec.files, kNames);
  if (spec.takes_config) text += paragraph("  CONFIG.json", "keys as below, without dashes; flags win", kNames);
  std::vector<std::string> sections;
  for (const Field& field : fields)
    if (std::find(sections.begin(), sections.end(), field.section) == sections.end()) sections.push_back(field.section);
  for (const std::string& section : sections) {
    text += "\n" + section + ":\n";
    for (const Field& field : fields)
      if (field.section == section) text += help_of(field);
  }
  text +=
      "\n" + paragraph("",
                       "[ ] holds the default. --key value and --key=value are the same; a value that starts with -- "
                       "needs the second. Underscores and hyphens are the same. If a flag is given twice, the "
                       "last counts. Write a list as a,b or [\"a\", \"b\"]" +
                           std::string(spec.takes_config || !spec.files.empty() ? "" : " or a b") +
                           ", an object as k=v,k=v or {\"k\": v}.",
                       0);
  return text + paragraph("", exit_codes(), 0);
}

}  // namespace rankfold
