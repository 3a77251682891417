#include "cli/console.h"

#include "core/check.h"
#include "core/number_text.h"
#include "core/utf8.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <ostream>
#include <regex>

namespace rankfold {
namespace {

// The pieces of ids [begin, end), what decode() leaves out by name or number.
std::string spelled(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, size_t begin, size_t end) {
  std::string text;
  std::vector<int32_t> run;
  const auto flush = [&] {
    if (!run.empty()) text += tokenizer.decode(run);
    run.clear();
  };
  for (size_t i = begin; i < end; ++i) {
    const std::string control = tokenizer.control_text(ids[i]);
    if (!control.empty()) {
      flush();
      text += control;
    } else if (ids[i] >= tokenizer.size()) {
      flush();
      text += "<" + std::to_string(ids[i]) + ">";
    } else {
      run.push_back(ids[i]);
    }
  }
  flush();
  return text;
}

std::string numbers(const std::vector<int32_t>& ids, size_t begin, size_t end) {
  std::string text;
  for (size_t i = begin; i < end; ++i) text += std::to_string(ids[i]) + (i + 1 < end ? " " : "");
  return text;
}

}  // namespace

std::string harmless(const std::string& text) {
  return printable(text, Shown::kProse, [](std::string_view) { return " "; });
}

size_t terminal_columns(size_t otherwise) {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  const char* said = std::getenv("COLUMNS");
  const int columns = said ? std::atoi(said) : 0;
  return columns > 0 ? static_cast<size_t>(columns) : otherwise;
}

std::string rows_text(int64_t rows) { return with_commas(rows) + (rows == 1 ? " row" : " rows"); }

void print_modules(std::ostream& out, const CausalLM& model, const Adapter& adapter) {
  if (adapter.is_full()) {
    out << "full: every parameter of " << model.config().architecture << " is trained\n";
  } else {
    std::map<std::string, int64_t> kinds;  // by name, layer numbers left out
    static const std::regex layer("\\.[0-9]+\\.");
    for (const auto& name : adapter.modules()) ++kinds[std::regex_replace(name, layer, ".*.")];
    out << "LoRA on " << adapter.modules().size() << " modules:";
    for (const auto& [kind, count] : kinds) out << " " << kind << " (" << count << ")";
    out << "\n";
    kinds.clear();
    for (const Parameter& p : adapter.named_parameters())
      if (p.name.find(".lora_") == std::string::npos) ++kinds[std::regex_replace(p.name, layer, ".*.")];
    if (!kinds.empty()) out << "trained as a whole:";
    for (const auto& [kind, count] : kinds) out << " " << kind << " (" << count << ")";
    if (!kinds.empty()) out << "\n";
  }
  const int64_t trained = adapter.parameter_count();
  int64_t all = adapter.is_full() ? trained : model.parameter_count() + trained;
  // Biases of `bias` train where they are, other tensors as copies.
  const std::string bias = adapter.is_full() ? "none" : adapter.config().bias;
  for (const Parameter& p : adapter.named_parameters())
    if (p.name.ends_with(bias == "all" ? ".bias" : ".base_layer.bias") && bias != "none") all -= p.value.numel();
  out << "trainable params: " << with_commas(trained) << " || all params: " << with_commas(all)
      << " || trainable%: " << printed("%.4f", 100.0 * static_cast<double>(trained) / static_cast<double>(all)) << "\n";
}

void print_spelled_tokens(std::ostream& out, const Tokenizer& tokenizer, const std::string& what,
                          const std::string& text) {
  for (const std::string& token : tokenizer.control_tokens())
    if (text.find(token) != std::string::npos)
      out << "warning: " << what << " spells " << one_line(token) << ", which is taken as text, not as a token\n";
}

void print_report(std::ostream& out, const DataFiles& files, const Dataset& dataset, const DataConfig& config,
                  const Tokenizer* tokenizer, const std::string& terms) {
  const DatasetReport& report = dataset.report();
  if (tokenizer) out << "tokenizer: " << one_line(tokenizer->path().string()) << "\n";
  out << files.text() << ": " << with_commas(dataset.size()) << " of " << with_commas(report.rows)
      << " rows, the longest of " << with_commas(report.longest) << " tokens";
  if (report.truncated)
    out << "; " << report.truncated << " cut to " << config.max_length << " tokens (" << with_commas(report.cut_tokens)
        << " tokens thrown away)";
  if (report.dropped) out << "; " << report.dropped << " longer than " << config.max_length << " left out";
  if (report.without_labels) out << "; " << report.without_labels << " without anything to learn left out";
  if (report.bad) out << "; " << report.bad << " broken left out";
  out << "\n";
  for (const std::string& line : dataset.bad_rows()) out << "  left out: " << harmless(line) << "\n";

  if (report.conversations) {
    out << rows_text(report.conversations) << " written by the chat template";
    if (report.questions) out << ", " << rows_text(report.questions) << " by the prompt template";
    if (!config.template_date.empty() && dataset.chat_template()->uses_date())
      out << ", dated " << config.template_date;
    out << "\n";
  }
  std::string left_out;
  for (const auto& [what, rows] : report.left_out)
    left_out +=
        join(left_out.empty() ? "" : ", ", what.empty() ? "others" : one_line(what), " (", rows_text(rows), ")");
  if (!left_out.empty()) out << "the chat template leaves out: " << left_out << "\n";
  if (report.without_end)
    out << "warning: " << rows_text(report.without_end)
        << " with an answer that no token ends: the model does not learn to stop there\n";

  std::string columns;
  bool may_be_text = false;  // what an answer should hold must not stand in its prompt
  for (const auto& [name, rows] : report.unused)
    if (name != terms || name.empty()) {
      columns +=
          join(columns.empty() ? "" : ", ", name.empty() ? "others" : one_line(name), " (", rows_text(rows), ")");
      may_be_text = may_be_text || name != "terms";
    }
  if (!columns.empty()) {
    out << "columns that are not used: " << columns;
    if (may_be_text && !config.columns.contains("input"))
      out << "; only if one is meant to be part of the prompt: --columns input=NAME";
    out << "\n";
  }
  for (const auto& [token, rows] : report.spelled)
    out << "warning: " << with_commas(rows) << (rows == 1 ? " row spells " : " rows spell ")
        << (token.empty() ? "other control tokens" : one_line(token)) << ", which is trained on as text\n";
  if (tokenizer) {
    if (report.questions) print_spelled_tokens(out, *tokenizer, "the prompt template", config.prompt_template);
    if (!tokenizer->note().empty()) out << "warning: " << tokenizer->note() << "\n";
  }
  if (!dataset.cache_note().empty()) out << dataset.cache_note() << "\n";
}

void print_sample(std::ostream& out, const Dataset& dataset, const Tokenizer* tokenizer) {
  constexpr size_t kShown = 512;
  const Example& row = dataset[0];
  const size_t size = row.input_ids.size(), shown = std::min(size, kShown);
  const auto learnt = [&](size_t i) { return row.labels[i] != kIgnoreIndex; };
  int64_t count = 0;
  for (size_t i = 0; i < size; ++i) count += learnt(i);
  std::string text;
  for (size_t begin = 0, end; begin < shown; begin = end) {
    end = begin;
    while (end < shown && learnt(end) == learnt(begin)) ++end;
    const std::string part =
        (tokenizer ? spelled(*tokenizer, row.input_ids, begin, end) : numbers(row.input_ids, begin, end));
    text += learnt(begin) ? "[[" + part + "]]" : part;
  }
  out << "first row, " << size << " tokens, " << count << " of them learnt, in [[ ]]:\n"
      << harmless(text) << (shown < size ? " ..." : "") << "\n";
}

}  // namespace rankfold
