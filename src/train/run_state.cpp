#include "train/run_state.h"

#include "adapter/match.h"
#include "core/check.h"
#include "core/checksum.h"
#include "core/config.h"
#include "core/file.h"
#include "core/json.h"
#include "core/write.h"
#include "model/model.h"
#include "rankfold/tensor_file.h"
#include "train/base_checksum.h"
#include "train/log_row.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <nlohmann/json.hpp>

#include <cstdlib>
#include <limits>
#include <set>

namespace rankfold {
namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

namespace {

constexpr int kFormatVersion = 2;
constexpr uint64_t kAnySize = std::numeric_limits<uint64_t>::max();  // the log of a long run is in it
constexpr const char* kBase = "base_model";
constexpr const char* kDtype = "dtype";
constexpr const char* kStorage = "quantization";
constexpr const char* kUpdates = "updates";
constexpr const char* kBrought = "tensors_of_adapter";

// Of the environment, what changes the numbers of a step.
constexpr const char* kSwitches[] = {"RANKFOLD_CPU_CAPABILITY", "RANKFOLD_GEMM_TF32", "RANKFOLD_GEMM_TUNE"};

Json environment() {
  Json set = Json::object();
  for (const char* name : kSwitches)
    if (const char* value = std::getenv(name)) set[name] = value;
  return set;
}

void say_changed_environment(const nlohmann::json& before, int64_t step,
                             const std::function<void(const std::string&)>& say) {
  const Json now = environment();
  for (const std::string name : kSwitches) {
    const std::string old_value = before.value(name, ""), value = now.value(name, "");
    const auto shown = [](const std::string& text) { return text.empty() ? "not set" : text; };
    if (value != old_value)
      say(join(name, ": ", shown(value), " from step ", step + 1, " on, ", shown(old_value), " before"));
  }
}

std::string names_checksum(const std::vector<std::string>& names) {
  uint64_t sum = kChecksumSeed;
  for (const std::string& name : names) sum = checksum64(std::as_bytes(std::span(name.c_str(), name.size() + 1)), sum);
  return checksum_text(sum);
}

}  // namespace

nlohmann::json identity_of(const CausalLM& model, const Adapter& adapter, const Dataset& dataset,
                           const TrainConfig& config, const Stop& stop) {
  nlohmann::json identity = {
      {kBase, base_checksum(model.shared_model()->folder, stop)},
      {kDtype, c10::toString(model.dtype())},
      {"finetuning_type", word_for(kFinetunings, adapter.is_full() ? Finetuning::kFull : Finetuning::kLora)},
      {"dataset", checksum_text(dataset.fingerprint())}};
  if (const auto& storage = model.shared_model()->storage) identity[kStorage] = text_of(*storage);
  const auto add = [&identity](const Json& values) {
    for (const auto& [key, value] : values.items()) identity[key] = value;
  };
  add(values_of(config, Resume::kSame));
  if (!adapter.is_full()) {
    add(values_of(adapter.config(), Resume::kSame));
    identity["modules"] = names_checksum(adapter.modules());
    // Of patterns the first that matches counts, and an object does not hold their order: what they came to does.
    const ModuleRanks ranks(adapter.config());
    std::vector<std::string> updates;
    for (const std::string& module : adapter.modules()) {
      const ModuleMatch match = ranks.match({.name = module});
      updates.push_back(join(module, " ", match.r, " ", match.alpha));
    }
    identity[kUpdates] = names_checksum(updates);
    identity["bias"] = adapter.config().bias;
    const StringList& saved = adapter.config().modules_to_save;
    identity["modules_to_save"] = std::set<std::string>(saved.begin(), saved.end());
    std::vector<std::string> brought;
    for (const auto& [key, value] : adapter.untrained_tensors()) {
      const std::span bytes(static_cast<const std::byte*>(value.const_data_ptr()), value.nbytes());
      brought.push_back(key + " " + checksum_text(checksum64(bytes)));
    }
    identity[kBrought] = names_checksum(brought);
  }
  return identity;
}

namespace {

Json best_json(const Best& best) {
  Json json = {{"rows", best.rows}, {"metric", best.metric}, {"without_gain", best.without_gain}};
  if (best.value) json.update({{"step", best.step}, {"value", *best.value}});
  return json;
}

Best read_best(const nlohmann::json& json) {
  Best best{.rows = json.at("rows"), .metric = json.at("metric"), .without_gain = json.at("without_gain")};
  if (json.contains("value")) best.value = json.at("value").get<double>(), best.step = json.at("step");
  return best;
}

Json sample_json(const SampleAnswer& sample) {
  return {{"step", sample.step}, {"prompt", sample.prompt}, {"expected", sample.expected}, {"answer", sample.answer}};
}

}  // namespace

std::string run_state_json(const StepState& state, const RunLog& log, const nlohmann::json& identity,
                           const TrainConfig& config) {
  Json rows = Json::array();
  for (const LogRow& row : log.rows) rows.push_back(row_json(row));
  Json json = {{"format_version", kFormatVersion},
               {"step", state.step},
               {"optimizer_steps", state.optimizer_steps},
               {"epoch", state.epoch},
               {"tokens_seen", state.tokens_seen},
               {"loss_sum", state.loss_sum},
               {"loss_count", state.loss_count},
               {"grad_norm", state.grad_norm},
               {"skipped", state.skipped},
               {"skipped_in_a_row", state.skipped_in_a_row},
               {"loss_scale", state.loss_scale.value},
               {"loss_scale_steps", state.loss_scale.steps},
               {"run", Json::parse(identity.dump())},
               {"settings", values_of(config, Resume::kMayChange)},
               {"log", rows}};
  if (const Json set = environment(); !set.empty()) json["environment"] = set;
  if (log.callbacks_are_due) json["callbacks_are_due"] = true;
  if (!log.best.rows.empty()) json["best"] = best_json(log.best);
  for (const SampleAnswer& sample : log.samples) json["samples"].push_back(sample_json(sample));
  return json.dump(2, ' ', false, Json::error_handler_t::replace);  // a switch may be any bytes
}

std::optional<std::string> dtype_in(const fs::path& checkpoint) try {
  const nlohmann::json state = read_json(checkpoint / kStateName, kAnySize);
  const std::string dtype = state.at("run").at(kDtype);
  for (const auto& word : kDtypes)
    if (word.meaning && c10::toString(*word.meaning) == dtype) return word.text;
  return std::nullopt;
} catch (const Error&) {
  return std::nullopt;
} catch (const nlohmann::json::exception&) {
  return std::nullopt;
}

std::pair<StepState, RunLog> read_run_state(const fs::path& checkpoint, nlohmann::json identity, const CausalLM& model,
                                            const TrainConfig& config,
                                            const std::function<void(const std::string&)>& say) {
  const std::string name = (checkpoint / kStateName).string();
  const nlohmann::json json = read_json(name, kAnySize);
  const auto refuse = [&](const auto&... parts) { throw Error(ExitCode::kResumeRefused, join(name, ": ", parts...)); };
  try {
    if (json.at("format_version") != kFormatVersion)
      refuse("format_version: expected ", kFormatVersion, ", got ", json.at("format_version").dump());
    nlohmann::json stored = json.at("run");
    if (is_sampled_checksum(stored.at(kBase))) identity[kBase] = sampled_base_checksum(model.shared_model()->folder);
    for (nlohmann::json* run : {&stored, &identity})
      if (!run->contains(kStorage)) (*run)[kStorage] = "as stored";
    if (!stored.contains(kUpdates)) identity.erase(kUpdates);  // checkpoints of earlier versions
    if (!stored.contains(kBrought))
      stored.update({{"bias", "none"}, {"modules_to_save", nlohmann::json::array()}, {kBrought, names_checksum({})}});
    if (identity.contains(kBrought) && stored.at(kBrought) != identity.at(kBrought))
      refuse("its adapter brings weights of its own that do not train, which this run has not: give ",
             "adapter_name_or_path, as when the run began");
    for (const auto& [key, value] : identity.items())
      if (stored.value(key, nlohmann::json()) != value)
        refuse(key, ": this run has ", value.dump(), ", the checkpoint ", stored.value(key, nlohmann::json()).dump());
    StepState state;
    state.step = json.at("step");
    state.optimizer_steps = json.at("optimizer_steps");
    state.epoch = json.at("epoch");
    state.tokens_seen = json.at("tokens_seen");
    state.loss_sum = json.at("loss_sum");
    state.loss_count = json.at("loss_count");
    state.grad_norm = json.at("grad_norm");
    state.skipped = json.at("skipped");
    state.skipped_in_a_row = json.at("skipped_in_a_row");
    state.loss_scale = {.value = json.at("loss_scale"), .steps = json.at("loss_scale_steps")};
    RunLog log;
    for (const nlohmann::json& row : json.at("log")) log.rows.push_back(read_row(row));
    log.callbacks_are_due = json.value("callbacks_are_due", false);
    if (json.contains("best")) log.best = read_best(json["best"]);
    for (const nlohmann::json& sample : json.value("samples", nlohmann::json::array()))
      log.samples.push_back({sample.at("step"), sample.at("prompt"), sample.at("expected"), sample.at("answer")});
    const nlohmann::json before = json.value("settings", nlohmann::json::object());
    const Json now = values_of(config, Resume::kMayChange);
    for (const auto& [key, value] : now.items())
      if (before.contains(key) && before[key] != value)
        say(join(key, ": ", value.dump(), " from step ", state.step + 1, " on, ", before[key].dump(), " before"));
    say_changed_environment(json.value("environment", nlohmann::json::object()), state.step, say);
    return {state, log};
  } catch (const nlohmann::json::exception& error) {
    refuse("expected the state of a run, got ", error.what());
  }
  throw std::logic_error("not reached");
}

void save_optimizer(const fs::path& folder, const Adapter& adapter, const AdamW& optimizer) {
  std::vector<std::pair<std::string, at::Tensor>> tensors = {{"exp_avg", optimizer.first_moment},
                                                             {"exp_avg_sq", optimizer.second_moment}};
  // An adapter file is exact; a model folder in 16 bits is not what training goes on from.
  if (adapter.is_full()) tensors.emplace_back("master", optimizer.values);
  write_tensor_file(folder / "optimizer.safetensors", tensors);
}

namespace {

void load_tensor(at::Tensor target, const TensorFile& file, const std::string& name) {
  const at::Tensor stored = file.tensor(name);
  if (stored.numel() != target.numel() || stored.scalar_type() != at::kFloat)
    fail(file.path().string(), ": ", name, ": expected ", target.numel(), " float32 values, got ", stored.numel(), " ",
         c10::toString(stored.scalar_type()));
  at::NoGradGuard no_grad;
  target.copy_(stored.view_as(target));
}

}  // namespace

void load_values(const fs::path& folder, const Adapter& adapter, AdamW& optimizer) {
  if (adapter.is_full())
    return load_tensor(optimizer.values, TensorFile::open(folder / "optimizer.safetensors"), "master");
  const TensorFile values = TensorFile::open(folder / "adapter_model.safetensors");
  for (const Parameter& p : adapter.named_parameters()) load_tensor(p.value, values, p.name);
}

void load_optimizer(const fs::path& folder, const Adapter& adapter, AdamW& optimizer) {
  const TensorFile file = TensorFile::open(folder / "optimizer.safetensors");
  load_tensor(optimizer.first_moment, file, "exp_avg");
  load_tensor(optimizer.second_moment, file, "exp_avg_sq");
  load_values(folder, adapter, optimizer);
}

std::string sample_lines(const std::vector<SampleAnswer>& samples) {
  std::string lines;
  for (const SampleAnswer& sample : samples)
    lines += sample_json(sample).dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  return lines;
}

std::string trainer_state_json(const StepState& state, const RunLog& log, const TrainConfig& config,
                               const StepPlan& plan, int64_t eval_steps) {
  const Best& best = log.best;
  const auto of_best = [&best](const Json& value) { return best.value ? value : Json(); };
  Json rows = Json::array();
  for (const LogRow& row : log.rows) rows.push_back(repeatable_row_json(row));
  return Json{{"best_global_step", of_best(best.step)},
              {"best_metric", of_best(best.value.value_or(0))},
              {"best_model_checkpoint", of_best(join("checkpoint-", best.step))},
              {"epoch", state.epoch},
              {"eval_steps", eval_steps > 0 ? Json(eval_steps) : Json()},
              {"global_step", state.step},
              {"is_hyper_param_search", false},
              {"is_local_process_zero", true},
              {"is_world_process_zero", true},
              {"log_history", rows},
              {"logging_steps", config.logging_steps},
              {"max_steps", plan.total_steps},
              {"num_input_tokens_seen", state.tokens_seen},
              {"num_train_epochs", (plan.total_steps + plan.steps_per_epoch - 1) / plan.steps_per_epoch},
              {"save_steps", config.save_steps},
              {"stateful_callbacks", Json::object()},
              {"total_flos", 0},
              {"train_batch_size", config.per_device_train_batch_size},
              {"trial_name", nullptr},
              {"trial_params", nullptr}}
             .dump(2) +
         "\n";
}

}  // namespace rankfold
