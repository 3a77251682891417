#include "cli/compare_report.h"
#include "cli/console.h"
#include "cli/eval_options.h"
#include "cli/signals.h"
#include "core/check.h"
#include "core/number_text.h"
#include "core/write.h"
#include "eval/compare.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <set>
#include <utility>

namespace rankfold {
namespace {

namespace fs = std::filesystem;

std::vector<Contender> contenders_of(const EvalOptions& options) {
  std::vector<Contender> contenders;
  std::set<fs::path> seen;
  for (const std::string& name : options.compare) try {
      const bool is_base = name == "base";
      const ModelKind kind = is_base ? ModelKind::kBase : kind_of_folder(name);
      if (!seen.insert(is_base ? fs::path("base") : fs::canonical(name)).second)
        fail(name, ": expected each model once, got it twice");
      contenders.push_back({.name = name,
                            .kind = kind,
                            .folder = is_base ? fs::path(options.model.model_name_or_path) : fs::path(name)});
    } catch (const UserError& error) {
      fail("--compare: ", error.what());
    }
  return contenders;
}

// The name of the report's two files, without an ending that a person may have written.
std::string report_name(const std::string& said) {
  for (const char* ending : {".json", ".html"})
    if (said.ends_with(ending) && said.size() > std::string(ending).size())
      return said.substr(0, said.size() - std::string(ending).size());
  return said;
}

void check_comparison(const EvalOptions& options) {
  if (const std::string& adapter = options.model.adapter_name_or_path; !adapter.empty())
    fail("--adapter_name_or_path: expected none beside --compare, got ", adapter, ": name it in --compare");
  if (!options.output.empty()) fail("--output: expected --report with --compare, got ", options.output);
  if (options.report.empty()) return;
  if (fs::path(options.report).filename().empty())
    fail("--report: expected a name, such as ", options.report, "comparison, got the folder ", options.report);
  for (const char* ending : {".json", ".html"}) check_writable("--report", report_name(options.report) + ending);
}

// How rows are written for a model: as lora-eval would for it alone.
DataConfig data_for(const EvalOptions& options, const Contender& contender, const Given& given) {
  ModelOptions alone = options.model;
  if (contender.kind == ModelKind::kWhole) alone.model_name_or_path = contender.folder.string();
  if (contender.kind == ModelKind::kAdapter) alone.adapter_name_or_path = contender.folder.string();
  DataConfig data = options.data;
  choose_templates(alone, given, data);
  choose_date(alone.model_name_or_path, data);
  return data;
}

std::string answers_by_model(const Comparison& comparison) {
  std::string lines;
  for (size_t i = 0; i < comparison.questions.size(); ++i) {
    const Question& question = comparison.questions[i];
    nlohmann::ordered_json answers;
    for (const ComparedModel& model : comparison.models) answers[model.name] = model.each[i].text;
    const nlohmann::ordered_json line = {{"question", question.text},
                                         {"reference", question.reference},
                                         {"terms", question.terms},
                                         {"answers", answers}};
    lines += line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }
  return lines;
}

std::string what_terms(const TermSource& terms, const std::string& said) {
  if (!terms.field.empty()) return "the rows' field " + terms.field;
  if (terms.is_none()) return "";
  return with_commas(static_cast<int64_t>(terms.list.size())) + (terms.is_mined ? " mined" : " of " + said);
}

CompareEvents events_of(const EvalOptions& options, const TermSource& terms) {
  CompareEvents events;
  events.on_open = [&options](const CausalLM& model, const Contender& contender) {
    if (contender.kind != ModelKind::kAdapter)
      for (const std::string& note : model.config().notes) std::cerr << note << "\n";
    const std::string adapter = contender.kind == ModelKind::kAdapter ? contender.folder.string() : "";
    for (const std::string& note : notes_of(model.folder().string(), adapter, model)) std::cerr << note << "\n";
  };
  events.on_data = [&terms](const Dataset& rows, const DataFiles& files, const DataConfig& data,
                            const Tokenizer* tokenizer) {
    print_report(std::cerr, files, rows, data, tokenizer, terms.field);
  };
  events.on_measured = [](const ComparedModel& model) {
    std::cerr << one_line(model.name) << ": loss " << printed("%.4g", model.loss);
    if (model.answers)
      std::cerr << ", " << with_commas(static_cast<int64_t>(model.each.size())) << " answers at "
                << with_commas(std::llround(model.answers->tokens_per_second)) << " tokens/s";
    std::cerr << std::endl;
  };
  return events;
}

}  // namespace

void print_terms(const TermSource& terms) {
  constexpr size_t kShown = 10;
  if (terms.list.empty()) return;
  std::string first;
  for (size_t i = 0; i < std::min(kShown, terms.list.size()); ++i) first += (i ? ", " : ": ") + terms.list[i];
  std::cerr << with_commas(static_cast<int64_t>(terms.list.size())) << (terms.is_mined ? " terms mined" : " terms read")
            << one_line(first) << (terms.list.size() > kShown ? ", ..." : "") << "\n";
}

void run_comparison(EvalOptions& options, const Given& given) {
  check_comparison(options);
  CompareConfig config{.contenders = contenders_of(options),
                       .base = options.model.model_name_or_path,
                       .load = options.model.load,
                       .held_out = options.dataset,
                       .generate = options.generate,
                       .rows_per_batch = options.per_device_eval_batch_size};
  bool has_base = false;
  for (Contender& contender : config.contenders) {
    contender.data = data_for(options, contender, given);
    check_data(options.dataset, contender.data, given);
    if (contender.kind != ModelKind::kBase) continue;
    config.base_data = contender.data;
    has_base = true;
  }
  if (!has_base) config.base_data = data_for(options, {}, given);
  if (!options.train_dataset.paths.empty()) {
    config.train = options.train_dataset;
    check_data(options.train_dataset, config.base_data, given);
  }
  config.terms = term_source(options.terms, options.dataset, options.train_dataset, options.base_text, options.data,
                             stop_requested);
  print_terms(config.terms);

  const Comparison comparison = compare(config, events_of(options, config.terms), stop_requested);
  const ComparedOn on{options.model.model_name_or_path, options.dataset.text(), options.train_dataset.text(),
                      options.terms, what_terms(config.terms, options.terms)};
  if (!options.predictions.empty()) write_text(options.predictions, answers_by_model(comparison));
  if (!options.report.empty()) {
    const std::string name = report_name(options.report);
    const auto replace = nlohmann::json::error_handler_t::replace;
    write_text(name + ".json", comparison_json(comparison, on).dump(2, ' ', false, replace) + "\n");
    write_text(name + ".html", comparison_page(comparison, on));
  }
  std::cout << harmless(comparison_text(comparison));
}

}  // namespace rankfold
