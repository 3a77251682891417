#include "cli/plan_text.h"

#include "cli/console.h"
#include "cli/text_columns.h"
#include "core/check.h"
#include "core/number_text.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <ostream>

namespace rankfold {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kLabel = 17, kMethod = 28;  // columns

std::string duration(double seconds) {
  const auto whole = static_cast<long long>(std::llround(seconds));
  if (seconds < 1) return printed("%.3g ms", 1e3 * seconds);
  if (seconds < 60) return printed("%.3g s", seconds);
  if (whole < 3600) return printed("%lld min %02lld s", whole / 60, whole % 60);
  return printed("%lld h %02lld min", whole / 3600, whole / 60 % 60);
}

void print_data(std::ostream& out, const DataPlan& data, const DatasetReport& report) {
  print_wrapped(out, left("  rows", kLabel),
                join(rows_text(data.rows), " to learn from, ", with_commas(report.truncated), " of them cut (",
                     with_commas(report.cut_tokens), " tokens thrown away), ", with_commas(data.duplicates),
                     data.duplicates == 1 ? " exact duplicate" : " exact duplicates",
                     "; left out: ", with_commas(report.dropped), " too long, ", with_commas(report.without_labels),
                     " without anything to learn, ", with_commas(report.bad), " broken"));
  if (data.held_out_rows > 0) print_wrapped(out, left("  held out", kLabel), rows_text(data.held_out_rows));
  print_wrapped(out, left("  tokens", kLabel),
                join(with_commas(data.tokens), " an epoch, ", with_commas(data.learnt_tokens), " of them learnt"));
  int64_t most = 1;
  for (const LengthBin& bin : data.lengths) most = std::max(most, bin.rows);
  bool is_first = true;
  for (const LengthBin& bin : data.lengths) {
    constexpr int64_t kBar = 40;
    const std::string range =
        bin.first == bin.last ? with_commas(bin.first) : with_commas(bin.first) + " to " + with_commas(bin.last);
    const auto bar = static_cast<size_t>((bin.rows * kBar + most - 1) / most);
    out << left(is_first ? "  lengths" : "", kLabel) << right(range, 17) << right(with_commas(bin.rows), 13) << "  "
        << std::string(bar, '#') << "\n";
    is_first = false;
  }
}

std::string in_columns(const RunPlan& plan, const std::string& label, auto text_of) {
  std::string line = left("  " + label, kLabel);
  for (const MethodPlan& method : plan.methods) line += left(text_of(method), kMethod);
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

void print_methods(std::ostream& out, const RunPlan& plan) {
  const auto time_of = [](auto member) {
    return [member](const MethodPlan& m) { return m.time ? duration(member(*m.time)) : std::string("-"); };
  };
  out << in_columns(plan, "", [&](const MethodPlan& m) {
    const std::string name = m.method == Finetuning::kLora ? "LoRA" : "full tuning";
    return &m == &plan.methods.front() ? name + " (configured)" : name;
  });
  out << in_columns(plan, "trained", [](const MethodPlan& m) { return with_commas(m.trained) + " parameters"; });
  out << in_columns(plan, "memory", [](const MethodPlan& m) {
    return bytes_text(m.memory.total()) + (m.memory.fits() ? "" : ", does not fit");
  });
  out << in_columns(plan, "checkpointing",
                    [](const MethodPlan& m) { return std::string(word_for(kCheckpointings, m.memory.checkpointing)); });
  out << in_columns(plan, "a step", time_of([](const TimePlan& t) { return t.step; }));
  out << in_columns(plan, "start", time_of([](const TimePlan& t) { return t.start; }));
  out << in_columns(plan, "training", time_of([](const TimePlan& t) { return t.training; }));
  if (plan.evaluations > 0)
    out << in_columns(plan, "evaluation", time_of([](const TimePlan& t) { return t.evaluation; }));
  out << in_columns(plan, "saving", time_of([](const TimePlan& t) { return t.saving; }));
  out << in_columns(plan, "in all", time_of([](const TimePlan& t) { return t.total(); }));
  for (const MethodPlan& method : plan.methods) {
    const std::string name = method.method == Finetuning::kLora ? "  LoRA: " : "  full: ";
    if (!method.remedy.empty())
      print_wrapped(out, name, join("of ", bytes_text(method.memory.limit), " that are there; ", method.remedy));
    if (method.time) print_wrapped(out, name, method.time->basis);
    if (!method.no_time.empty()) print_wrapped(out, name, "no time: " + method.no_time);
  }
}

Json time_json(const TimePlan& time) {
  return {{"measured", time.measured > 0},
          {"measured_micro_batches", time.measured},
          {"basis", time.basis},
          {"step_seconds", time.step},
          {"tokens_per_second", time.tokens_per_second},
          {"start_seconds", time.start},
          {"training_seconds", time.training},
          {"evaluation_seconds", time.evaluation},
          {"saving_seconds", time.saving},
          {"total_seconds", time.total()}};
}

Json method_json(const MethodPlan& method) {
  const MemoryPlan& memory = method.memory;
  Json json = {{"trainable_parameters", method.trained},
               {"memory_bytes", memory.total()},
               {"memory",
                {{"weights", memory.mapped + memory.copied},
                 {"adapter", memory.adapter},
                 {"optimizer", memory.optimizer},
                 {"kept", memory.kept},
                 {"temporary", memory.temporary},
                 {"libraries", memory.libraries}}},
               {"memory_limit_bytes", memory.limit},
               {"fits", memory.fits()},
               {"gradient_checkpointing", word_for(kCheckpointings, memory.checkpointing)},
               {"would_fit", method.remedy.empty() ? Json() : Json(method.remedy)},
               {"time", method.time ? time_json(*method.time) : Json()}};
  if (!method.no_time.empty()) json["no_time"] = method.no_time;
  return json;
}

}  // namespace

void print_plan(std::ostream& out, const RunPlan& plan, const Advice& advice, const DatasetReport& report) {
  out << "plan:\n";
  print_data(out, plan.data, report);
  print_wrapped(
      out, left("  steps", kLabel),
      join(with_commas(plan.steps), " of ", rows_text(plan.rows_per_step), ", ", with_commas(plan.steps_per_epoch),
           " an epoch; ", with_commas(plan.evaluations), plan.evaluations == 1 ? " evaluation" : " evaluations", ", ",
           with_commas(plan.saves), plan.evaluations > 0 ? " saves (each evaluation taken for a new best)" : " saves"));
  out << "\n";
  print_methods(out, plan);
  out << "\nby the amount of data (the guide):\n";
  print_wrapped(out, "  ", advice.reason);
  print_wrapped(out, "  ", rows_text(plan.data.rows) + " here; " + advice.yours);
  out << "\nnewer evidence (\"LoRA Without Regret\", Thinking Machines Lab, 2025), and your settings:\n";
  for (const Finding& finding : advice.findings) {
    print_wrapped(out, left("  " + finding.topic, kLabel + 1), finding.finding + ".");
    print_wrapped(out, left("", kLabel + 1), "Yours: " + finding.yours + ".");
  }
}

Json plan_json(const RunPlan& plan, const Advice& advice, const DatasetReport& report) {
  Json lengths = Json::array(), findings = Json::array();
  for (const LengthBin& bin : plan.data.lengths)
    lengths.push_back({{"first", bin.first}, {"last", bin.last}, {"rows", bin.rows}});
  for (const Finding& finding : advice.findings)
    findings.push_back({{"topic", finding.topic}, {"finding", finding.finding}, {"yours", finding.yours}});
  Json json = {{"rows", plan.data.rows},
               {"rows_read", report.rows},
               {"held_out_rows", plan.data.held_out_rows},
               {"tokens", plan.data.tokens},
               {"learnt_tokens", plan.data.learnt_tokens},
               {"shortest", plan.data.shortest},
               {"longest", plan.data.longest},
               {"lengths", lengths},
               {"cut_rows", report.truncated},
               {"cut_tokens", report.cut_tokens},
               {"dropped_rows", report.dropped},
               {"rows_without_labels", report.without_labels},
               {"broken_rows", report.bad},
               {"duplicate_rows", plan.data.duplicates},
               {"steps", plan.steps},
               {"steps_per_epoch", plan.steps_per_epoch},
               {"rows_per_step", plan.rows_per_step},
               {"evaluations", plan.evaluations},
               {"saves", plan.saves},
               {"finetuning_type", word_for(kFinetunings, plan.methods.front().method)}};
  for (const MethodPlan& method : plan.methods) json[word_for(kFinetunings, method.method)] = method_json(method);
  const MethodPlan& mine = plan.methods.front();
  json["seconds"] = mine.time ? Json(mine.time->total()) : Json();
  json["memory_bytes"] = mine.memory.total();
  json["guide"] = {{"choice", advice.choice}, {"reason", advice.reason}, {"yours", advice.yours}};
  json["evidence"] = findings;
  return json;
}

}  // namespace rankfold
