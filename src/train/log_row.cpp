#include "train/log_row.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <iterator>
#include <limits>
#include <tuple>

namespace rankfold {
using Json = nlohmann::ordered_json;

namespace {

constexpr std::string_view kOfTraining[] = {"loss", "grad_norm", "learning_rate", "tokens_per_second",
                                            "peak_memory_bytes"};

bool depends_on_machine(std::string_view name) {
  return name.ends_with("_per_second") || name.ends_with("peak_memory_bytes") || name.ends_with("_runtime");
}

// JSON has no text for a number that is not finite: it stands there as null.
std::variant<double, int64_t> value_of(const nlohmann::json& json) {
  if (json.is_null()) return std::numeric_limits<double>::quiet_NaN();
  if (json.is_number_integer()) return json.get<int64_t>();
  return json.get<double>();
}

void add(Json& json, const Metric& metric) {
  std::visit([&](auto value) { json[metric.name] = value; }, metric.value);
}

}  // namespace

std::optional<double> LogRow::metric(std::string_view name) const {
  const auto at = std::find_if(metrics.begin(), metrics.end(), [name](const Metric& m) { return m.name == name; });
  if (at == metrics.end()) return std::nullopt;
  return std::visit([](auto value) { return static_cast<double>(value); }, at->value);
}

bool is_of_training(std::string_view metric) {
  return std::find(std::begin(kOfTraining), std::end(kOfTraining), metric) != std::end(kOfTraining);
}

bool is_of_evaluation(const LogRow& row) {
  return std::any_of(row.metrics.begin(), row.metrics.end(),
                     [](const Metric& metric) { return metric.name.starts_with("eval_"); });
}

LogRow make_row(int64_t step, double epoch, std::vector<Metric> metrics) {
  const auto place = [](const Metric& m) { return std::find(std::begin(kOfTraining), std::end(kOfTraining), m.name); };
  std::sort(metrics.begin(), metrics.end(), [&](const Metric& a, const Metric& b) {
    return std::tuple(place(a), std::string_view(a.name)) < std::tuple(place(b), std::string_view(b.name));
  });
  LogRow row{.step = step, .epoch = epoch, .metrics = std::move(metrics)};
  row.loss = row.metric("loss").value_or(0);
  row.grad_norm = row.metric("grad_norm").value_or(0);
  row.learning_rate = row.metric("learning_rate").value_or(0);
  row.tokens_per_second = row.metric("tokens_per_second").value_or(0);
  row.peak_memory_bytes = static_cast<int64_t>(row.metric("peak_memory_bytes").value_or(0));
  return row;
}

LogRow read_row(const nlohmann::json& json) {
  std::vector<Metric> metrics;
  for (const auto& [name, value] : json.items())
    if (name != "step" && name != "epoch") metrics.push_back({name, value_of(value)});
  return make_row(json.at("step"), json.at("epoch"), std::move(metrics));
}

Json row_json(const LogRow& row) {
  Json json = {{"step", row.step}, {"epoch", row.epoch}};
  for (const Metric& metric : row.metrics) add(json, metric);
  return json;
}

Json repeatable_row_json(const LogRow& row) {
  Json json = {{"step", row.step}, {"epoch", row.epoch}};
  for (const Metric& metric : row.metrics)
    if (!depends_on_machine(metric.name)) add(json, metric);
  return json;
}

std::string log_line(const LogRow& row) { return row_json(row).dump(); }

std::string log_lines(const std::vector<LogRow>& rows) {
  std::string text;
  for (const LogRow& row : rows) text += log_line(row) + "\n";
  return text;
}

}  // namespace rankfold
