#include "data/template.h"

#include "core/check.h"
#include "text/vocabulary.h"

#include <algorithm>

namespace rankfold {
namespace {

constexpr std::string_view kPlace = "{question}";

void check_length(const std::string& prompt_template) {
  constexpr size_t kLongest = 64 << 10;
  if (prompt_template.size() > kLongest)
    fail("prompt_template: expected at most ", kLongest, " bytes, got ", prompt_template.size());
}

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// Whether a brace after this belongs to a formula or a pattern: x_{1}, x^{2}, \boxed{answer}, \d{3}.
bool ends_in_formula(std::string_view text) {
  if (text.ends_with('_') || text.ends_with('^')) return true;
  size_t letters = 0;
  while (letters < text.size() && is_letter(text[text.size() - 1 - letters])) ++letters;
  if (letters == 0 || text.size() == letters || text[text.size() - 1 - letters] != '\\') return false;
  return letters > 1 || std::string_view("nrt").find(text.back()) == std::string_view::npos;
}

// Where a backslash and an n stand that a line end was meant by: not a command of LaTeX's. npos: nowhere.
size_t find_escaped_line_end(std::string_view text) {
  constexpr std::string_view kCommands[] = {"nabla",    "natural",   "ncong", "ne",        "nexists", "nonumber",
                                            "norm",     "nparallel", "nsim",  "nsubseteq", "nearrow", "neg",
                                            "neq",      "newline",   "ngeq",  "ni",        "nleq",    "nmid",
                                            "noindent", "nolimits",  "not",   "notin",     "nu",      "nwarrow"};
  for (size_t at = 0; (at = text.find("\\n", at)) != std::string_view::npos; ++at) {
    const std::string_view rest = text.substr(at + 1);
    const std::string_view word = rest.substr(0, std::find_if_not(rest.begin(), rest.end(), is_letter) - rest.begin());
    if (std::find(std::begin(kCommands), std::end(kCommands), word) == std::end(kCommands)) return at;
  }
  return std::string_view::npos;
}

// A name, as other tools and languages have them in braces; no JSON, no sentence.
bool is_name(std::string_view text) {
  const auto may_stand = [](char c) {
    return is_letter(c) || (c >= '0' && c <= '9') || static_cast<unsigned char>(c) >= 0x80 ||
           std::string_view("_.-[]").find(c) != std::string_view::npos;
  };
  return !text.empty() && std::string_view(".-[]").find(text[0]) == std::string_view::npos &&
         std::all_of(text.begin(), text.end(), may_stand);
}

}  // namespace

std::string template_defect(std::string_view text) {
  if (const size_t at = find_escaped_line_end(text);
      at != std::string_view::npos && text.find('\n') == std::string_view::npos)
    return join("holds a backslash and the letter n (byte ", at + 1,
                "), and no line end: in bash write $'...\\n...', in a JSON file \\n with one backslash");
  size_t formula_end = std::string_view::npos;
  for (size_t at = 0; (at = text.find('{', at)) != std::string_view::npos; ++at) {
    if (text.substr(at + 1).starts_with('{'))
      return join("holds doubled braces (byte ", at + 1, "): write single ones, as in {question}");
    if (text.substr(at).starts_with(kPlace)) continue;
    constexpr size_t kLongest = 64;
    const size_t length = text.substr(at + 1, kLongest).find('}');
    if (length == std::string_view::npos) continue;
    std::string_view inside = text.substr(at + 1, length);
    if (at == formula_end || ends_in_formula(text.substr(0, at))) {
      formula_end = at + length + 2;
      continue;
    }
    while (inside.starts_with(' ')) inside.remove_prefix(1);
    while (inside.ends_with(' ')) inside.remove_suffix(1);
    if (is_name(inside))
      return join("nothing fills {", inside, "} (byte ", at + 1,
                  "); the one place is {question}, which takes the instruction and its input; the answer follows");
  }
  return "";
}

void check_template(const std::string& prompt_template) {
  check_length(prompt_template);
  if (const std::string defect = template_defect(prompt_template); !defect.empty()) fail("prompt_template: ", defect);
}

std::string render_prompt(const std::string& prompt_template, const std::string& question) {
  check_length(prompt_template);
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
  ids.insert(ids.begin(), tokenizer.prefix().begin(), tokenizer.prefix().end());
  return ids;
}

}  // namespace rankfold
