#include "cli/compare_report.h"

#include "cli/console.h"
#include "cli/text_columns.h"
#include "core/check.h"
#include "core/number_text.h"
#include "report/chart.h"
#include "train/memory_plan.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>

namespace rankfold {
namespace {

using Json = nlohmann::ordered_json;

std::string percent(double share) { return printed("%.1f %%", 100 * share); }

std::string chance(double p) {
  if (p < 1e-300) return "< 1e-300";  // less than a double can hold
  return printed(p < 0.001 ? "%.1e" : "%.3f", p);
}

// A column of the tables: a number of each model, how it is written, which end is best.
enum class Best { kHighest, kLowest, kNone };
struct Measure {
  const char* head;
  const char* meaning;
  Best best;
  std::function<std::optional<double>(const ComparedModel&)> value;
  std::function<std::string(double)> text;
};

template <class Member>
auto of_answers(Member member) {
  return [member](const ComparedModel& m) {
    return m.answers ? std::optional<double>((*m.answers).*member) : std::nullopt;
  };
}

const std::vector<Measure>& answer_measures() {
  static const std::vector<Measure> measures{
      {"terms", "share of a row's terms that the answer contains; mean over the rows with terms", Best::kHighest,
       [](const ComparedModel& m) { return m.answers ? m.answers->term_accuracy : std::nullopt; }, percent},
      {"exact", "share of answers that equal the row's answer, white space aside", Best::kHighest,
       of_answers(&AnswerMeans::exact_match), percent},
      {"char F1", "how many characters the answer shares with the row's answer, in any order: 100 % is all of both",
       Best::kHighest, of_answers(&AnswerMeans::char_f1), percent},
      {"ROUGE-L",
       "the same with the longest sequence of words that both have in one order; in Chinese a word is a character",
       Best::kHighest, of_answers(&AnswerMeans::rouge_l), percent},
      {"tokens/s", "generated tokens per second, over all answers", Best::kNone,
       of_answers(&AnswerMeans::tokens_per_second), [](double x) { return with_commas(std::llround(x)); }},
      {"peak memory", "most memory held while the model was measured", Best::kNone,
       [](const ComparedModel& m) { return std::optional(static_cast<double>(m.peak_memory_bytes)); },
       [](double x) { return bytes_text(std::llround(x)); }}};
  return measures;
}

const std::vector<Measure>& loss_measures() {
  static const std::vector<Measure> measures{
      {"loss", "mean loss per token of the held-out answers", Best::kLowest,
       [](const ComparedModel& m) { return std::optional(m.loss); }, [](double x) { return printed("%.4g", x); }},
      {"perplexity", "e to the power of that loss", Best::kLowest,
       [](const ComparedModel& m) { return std::optional(m.perplexity); }, [](double x) { return short_number(x); }},
      {"on train", "perplexity on the training rows", Best::kNone,
       [](const ComparedModel& m) { return m.train ? std::optional(m.train->perplexity) : std::nullopt; },
       [](double x) { return short_number(x); }},
      {"gap", "held-out loss minus training loss", Best::kNone,
       [](const ComparedModel& m) { return m.train ? std::optional(m.train->gap) : std::nullopt; },
       [](double x) { return printed("%.3g", x); }},
      {"trained", "number of trained parameters: an adapter's own, or all of a whole model", Best::kNone,
       [](const ComparedModel& m) { return std::optional(static_cast<double>(m.trainable_parameters)); },
       [](double x) { return with_commas(std::llround(x)); }},
      {"on disk", "size of the files of weights", Best::kNone,
       [](const ComparedModel& m) { return std::optional(static_cast<double>(m.bytes_on_disk)); },
       [](double x) { return size_text(static_cast<uint64_t>(x)); }}};
  return measures;
}

constexpr const char* kOverfittingMeaning =
    "the gap divided by the base's held-out loss: low below 10 %, medium below 30 %, else high";

std::string overfitting_text(const ComparedModel& m) {
  return m.train ? join(text_of(m.train->overfitting), " (", percent(m.train->gap_share), ")") : "-";
}

// A row a model, the best of a column marked where they differ.
Table table_of(const std::vector<ComparedModel>& models, const std::vector<Measure>& measures, bool with_overfitting) {
  Table table{.columns = {{"model"}}, .rows = {}};
  for (const std::string& name : short_names(models)) table.rows.push_back({Cell(name)});
  for (const Measure& measure : measures) {
    table.columns.push_back({measure.head, true});
    std::vector<double> values;
    for (const ComparedModel& m : models)
      if (const auto value = measure.value(m)) values.push_back(*value);
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    const bool differ = !values.empty() && *least < *most && measure.best != Best::kNone;
    for (size_t i = 0; i < models.size(); ++i) {
      const auto value = measure.value(models[i]);
      const bool is_best = differ && value && *value == (measure.best == Best::kHighest ? *most : *least);
      table.rows[i].push_back(Cell(value ? measure.text(*value) : "-", is_best));
    }
  }
  if (with_overfitting) {
    table.columns.push_back({"overfitting", true});
    for (size_t i = 0; i < models.size(); ++i) table.rows[i].push_back(Cell(overfitting_text(models[i])));
  }
  return table;
}

Table pairs_of(const Comparison& comparison) {
  const std::vector<std::string> names = short_names(comparison.models);
  Table table{.columns = {{"a"}, {"b"}, {"a better", true}, {"b better", true}, {"as good", true}, {"p", true}},
              .rows = {}};
  for (const ComparedPair& pair : comparison.pairs)
    table.rows.push_back({Cell(names[pair.a]), Cell(names[pair.b]), Cell(with_commas(pair.wins)),
                          Cell(with_commas(pair.losses)), Cell(with_commas(pair.ties)), Cell(chance(pair.p))});
  return table;
}

// As Markdown, in columns.
std::string table_text(const Table& table) {
  std::vector<size_t> widths;
  for (size_t c = 0; c < table.columns.size(); ++c) {
    widths.push_back(columns_of(table.columns[c].head));
    for (const auto& row : table.rows) widths[c] = std::max(widths[c], columns_of(row[c].text));
  }
  const auto aligned = [&](const std::string& text, size_t c) {
    return table.columns[c].is_number ? right(text, widths[c]) : left(text, widths[c]);
  };
  std::string head = "|", rule = "|", body;
  for (size_t c = 0; c < table.columns.size(); ++c) {
    head += " " + aligned(table.columns[c].head, c) + " |";
    rule += " " + std::string(widths[c] - 1, '-') + (table.columns[c].is_number ? ":" : "-") + " |";
  }
  for (const auto& row : table.rows) {
    body += "|";
    for (size_t c = 0; c < row.size(); ++c) body += " " + aligned(row[c].text, c) + " |";
    body += "\n";
  }
  return head + "\n" + rule + "\n" + body;
}

std::string judged_text(const Comparison& comparison) {
  const auto all = static_cast<int64_t>(comparison.questions.size());
  if (comparison.rows_with_terms == all) return "by their share of terms";
  return comparison.rows_with_terms == 0 ? "by char F1"
                                         : "by their share of terms, or by char F1 where a row has no terms";
}

// What of the rows was not asked.
std::vector<std::string> notes_of_rows(const Comparison& comparison) {
  std::vector<std::string> notes;
  if (comparison.rows_without_question)
    notes.push_back(rows_text(comparison.rows_without_question) + " without a question: counted in the losses alone");
  if (comparison.rows_without_answer)
    notes.push_back(rows_text(comparison.rows_without_answer) + " without an answer to compare with: not asked");
  notes.insert(notes.end(), comparison.notes.begin(), comparison.notes.end());
  return notes;
}

Json number_or_null(const std::optional<double>& value) { return value ? Json(*value) : Json(); }

// The answers to the questions [begin, end), side by side; the better ones of a row stand out.
Table answers_of(const Comparison& comparison, size_t begin, size_t end) {
  Table table{.columns = {{"question"}, {"row's answer"}}, .rows = {}};
  for (const std::string& name : short_names(comparison.models)) table.columns.push_back({name});
  for (size_t i = begin; i < std::min(end, comparison.questions.size()); ++i) {
    std::vector<Cell> row{Cell(comparison.questions[i].text), Cell(comparison.questions[i].reference)};
    double least = 1, most = 0;
    for (const ComparedModel& m : comparison.models)
      least = std::min(least, m.each[i].score()), most = std::max(most, m.each[i].score());
    for (const ComparedModel& m : comparison.models) {
      const ScoredAnswer& answer = m.each[i];
      row.push_back(Cell(answer.text.empty() ? "(nothing)" : answer.text, answer.score() == most && least < most));
    }
    table.rows.push_back(std::move(row));
  }
  return table;
}

std::string charts_of(const Comparison& comparison) {
  const std::vector<std::string> names = short_names(comparison.models);
  std::vector<std::string> figures;
  const auto chart = [&](const Measure& measure) {
    BarChart bars{.title = measure.head};
    for (size_t i = 0; i < names.size(); ++i)
      if (const auto value = measure.value(comparison.models[i]))
        bars.bars.push_back({names[i], *value, measure.text(*value), static_cast<int>(i % 8)});
    if (!bars.bars.empty()) figures.push_back(figure_html(measure.head, bar_chart_svg(bars)));
  };
  for (const Measure& measure : answer_measures())
    if (measure.head != std::string("exact") && measure.head != std::string("ROUGE-L")) chart(measure);
  return figures_html(figures);
}

std::string meanings() {
  Table table{.columns = {{"column"}, {"what it says"}}, .rows = {}};
  for (const auto* measures : {&answer_measures(), &loss_measures()})
    for (const Measure& measure : *measures) table.rows.push_back({Cell(measure.head), Cell(measure.meaning)});
  table.rows.push_back({Cell("overfitting"), Cell(kOverfittingMeaning)});
  table.rows.push_back({Cell("p"), Cell("the chance that throwing a coin for each row on which the two differ gives a "
                                        "split at least as uneven; below 0.05 the difference is hardly chance")});
  return table_html(table);
}

}  // namespace

std::vector<std::string> short_names(const std::vector<ComparedModel>& models) {
  std::vector<std::string> brief, whole;
  for (const ComparedModel& model : models) {
    std::filesystem::path path(model.name);
    while (path.has_parent_path() && !path.has_filename()) path = path.parent_path();
    brief.push_back(path.filename().string());
    whole.push_back(model.name);
  }
  const bool differ = std::set<std::string>(brief.begin(), brief.end()).size() == brief.size();
  return differ && std::find(brief.begin(), brief.end(), "") == brief.end() ? brief : whole;
}

nlohmann::ordered_json comparison_json(const Comparison& comparison, const ComparedOn& on) {
  Json models = Json::array(), pairs = Json::array();
  for (const ComparedModel& m : comparison.models) {
    const auto answers = [&m](double AnswerMeans::*member) { return m.answers ? Json((*m.answers).*member) : Json(); };
    constexpr const char* kKinds[] = {"base", "adapter", "model"};
    models.push_back({{"name", m.name},
                      {"kind", kKinds[static_cast<size_t>(m.kind)]},
                      {"loss", m.loss},
                      {"perplexity", m.perplexity},
                      {"loss_train", m.train ? Json(m.train->loss) : Json()},
                      {"perplexity_train", m.train ? Json(m.train->perplexity) : Json()},
                      {"gap", m.train ? Json(m.train->gap) : Json()},
                      {"gap_share", m.train ? Json(m.train->gap_share) : Json()},
                      {"overfitting", m.train ? Json(text_of(m.train->overfitting)) : Json()},
                      {"term_accuracy", m.answers ? number_or_null(m.answers->term_accuracy) : Json()},
                      {"exact_match", answers(&AnswerMeans::exact_match)},
                      {"char_f1", answers(&AnswerMeans::char_f1)},
                      {"rouge_l", answers(&AnswerMeans::rouge_l)},
                      {"generate_tokens_per_second", answers(&AnswerMeans::tokens_per_second)},
                      {"peak_memory_bytes", m.peak_memory_bytes},
                      {"trainable_parameters", m.trainable_parameters},
                      {"bytes_on_disk", m.bytes_on_disk}});
  }
  for (const ComparedPair& pair : comparison.pairs)
    pairs.push_back({{"a", comparison.models[pair.a].name},
                     {"b", comparison.models[pair.b].name},
                     {"wins", pair.wins},
                     {"losses", pair.losses},
                     {"ties", pair.ties},
                     {"p", pair.p}});
  return {{"models", models},
          {"pairs", pairs},
          {"base_model", on.base},
          {"dataset", on.held_out},
          {"train_dataset", on.train.empty() ? Json() : Json(on.train)},
          {"terms", on.terms.empty() ? Json() : Json(on.terms)},
          {"rows_asked", comparison.questions.size()},
          {"rows_with_terms", comparison.rows_with_terms},
          {"rows_without_question", comparison.rows_without_question},
          {"rows_without_answer", comparison.rows_without_answer},
          {"base_loss", number_or_null(comparison.base_loss)},
          {"notes", comparison.notes}};
}

std::string comparison_text(const Comparison& comparison) {
  std::string text = table_text(table_of(comparison.models, answer_measures(), true)) + "\n" +
                     table_text(table_of(comparison.models, loss_measures(), false));
  if (!comparison.pairs.empty() && !comparison.questions.empty())
    text += "\n" + join("better answers, judged ", judged_text(comparison), "; p of a two-sided sign test:\n") +
            table_text(pairs_of(comparison));
  const std::vector<std::string> notes = notes_of_rows(comparison);
  if (!notes.empty()) text += "\n";
  for (const std::string& note : notes) text += "note: " + one_line(note) + "\n";
  return text;
}

std::string comparison_page(const Comparison& comparison, const ComparedOn& on) {
  constexpr size_t kShown = 20, kFolded = 200;
  const size_t all = comparison.questions.size();
  const auto count = static_cast<int64_t>(all);
  std::string body =
      section_html("Answers", table_html(table_of(comparison.models, answer_measures(), true)) + charts_of(comparison));
  body += section_html("Losses and size", table_html(table_of(comparison.models, loss_measures(), false)));
  if (!comparison.pairs.empty() && all > 0)
    body += section_html("Which answers better",
                         paragraph_html("For each two models: the rows that one or the other answers better, judged " +
                                        judged_text(comparison) + "; p is that of a two-sided sign test.") +
                             table_html(pairs_of(comparison)));
  std::string notes;
  for (const std::string& note : notes_of_rows(comparison)) notes += paragraph_html(note);
  if (!notes.empty()) body += section_html("Notes", notes);
  if (all > 0) {
    std::string samples = paragraph_html("Where answers to a question differ in quality, the best are bold.") +
                          table_html(answers_of(comparison, 0, kShown));
    if (all > kShown)
      samples += folded_html(join("Questions ", kShown + 1, " to ", std::min(all, kFolded)),
                             table_html(answers_of(comparison, kShown, kFolded)));
    body += section_html(all > kShown ? join("The first ", kShown, " of ", with_commas(count), " questions")
                                      : join("Questions and answers"),
                         samples);
  }
  body += section_html("What the columns say", meanings());
  std::string lead = with_commas(count) + (all == 1 ? " question of " : " questions of ") + on.held_out;
  if (!on.what_terms.empty()) lead += "; terms: " + on.what_terms;
  if (!on.train.empty()) lead += "; training rows: " + on.train;
  std::string title = "Comparison:";
  for (const std::string& name : short_names(comparison.models)) title += (title.ends_with(':') ? " " : ", ") + name;
  return page_html(title, lead + "; base: " + on.base, body);
}

}  // namespace rankfold
