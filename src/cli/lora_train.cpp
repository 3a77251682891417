// lora-train: a configuration file and flags in, an adapter or a fully trained model out.
#include "cli/app.h"
#include "cli/console.h"
#include "cli/inference.h"
#include "core/check.h"
#include "core/device.h"
#include "core/json.h"
#include "data/rows.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <iostream>

namespace rankfold {
namespace {

namespace fs = std::filesystem;

// What a setting means, whatever the order of its names: lists of modules are sets.
nlohmann::json meaning(const Field& field) {
  nlohmann::ordered_json value;
  field.get(value);
  nlohmann::json plain = value;
  if (plain.is_array()) std::sort(plain.begin(), plain.end());
  return plain;
}

// The adapter that a run starts from decides r, alpha, dropout and targets: a setting that says otherwise is
// an error.
void take_adapter_settings(RunConfig& config, const Given& given) {
  const std::string path = (fs::path(config.adapter_name_or_path) / "adapter_config.json").string();
  LoraConfig saved;
  read_fields(read_json(path), path, saved, /*unknown_is_error=*/false);
  const Fields asked = fields_of(config.lora), theirs = fields_of(saved);
  for (size_t i = 0; i < asked.size(); ++i) {
    const auto wanted = meaning(asked[i]), there = meaning(theirs[i]);
    if (const auto at = given.find(asked[i].name); at != given.end() && wanted != there)
      fail(at->second, ": expected ", brief(there), " as in ", path, ", got ", brief(wanted),
           ": leave it out");
  }
  config.lora = saved;
}

bool same_folder(const fs::path& a, const fs::path& b) {
  std::error_code ignored;
  return fs::equivalent(a, b, ignored) ||
         fs::weakly_canonical(a, ignored) == fs::weakly_canonical(b, ignored);
}

// What can be refused before any work.
void validate(RunConfig& config, const Given& given) {
  const auto where = [&given](const char* key) {
    const auto at = given.find(key);
    return at == given.end() ? std::string(key) : at->second;
  };
  const bool continues = !config.adapter_name_or_path.empty();
  if (continues && !config.train.resume_from_checkpoint.empty())
    fail(where("adapter_name_or_path"),
         ": expected this or resume_from_checkpoint, got both: one starts a new run, "
         "the other continues one");
  if (continues && config.finetuning_type == "full")
    fail(where("adapter_name_or_path"), ": expected finetuning_type lora with it, got full");
  if (same_folder(config.train.output_dir, config.model_name_or_path))
    fail(where("output_dir"), ": expected another folder than the model's, got ", config.train.output_dir);
  if (fs::exists(config.train.output_dir) && !fs::is_directory(config.train.output_dir))
    fail(where("output_dir"), ": expected a folder, got the file ", config.train.output_dir);
  if (continues) take_adapter_settings(config, given);
  resolve_device(config.load.device);
  RowFile::open(config.dataset);  // a broken file is reported before the weights are read
}

Adapter make_adapter(const CausalLM& model, const RunConfig& config) {
  if (config.finetuning_type == "full") return Adapter::full(model);
  if (!config.adapter_name_or_path.empty())
    return Adapter::load(model, config.adapter_name_or_path, config.train.seed);
  return Adapter::create(model, config.lora, config.train.seed);
}

volatile std::sig_atomic_t noted_signal = 0;
extern "C" void note_signal(int signal) {
  noted_signal = signal;
  std::signal(signal, SIG_DFL);
}

void run(RunConfig& config, const Given& given) {
  validate(config, given);
  const CausalLM model = CausalLM::load(config.model_name_or_path, config.load);
  const Tokenizer* tokenizer = model.has_tokenizer() ? &model.tokenizer() : nullptr;
  const Dataset dataset = Dataset::open(config.dataset, tokenizer, config.data, model.config().vocab_size);
  const Adapter adapter = make_adapter(model, config);
  print_modules(model, adapter);
  print_report(config.dataset, dataset, config.data);
  print_sample(dataset, tokenizer);

  Trainer trainer(model, adapter, dataset, config.train);
  const nlohmann::json prompt = {{"prompt_template", config.data.prompt_template}};
  trainer.add_file(kTemplateFile, prompt.dump(2) + "\n");
  trainer.add_file("rankfold_config.json", to_json(config).dump(2) + "\n");
  ProgressDisplay display;
  trainer.on_progress([&display](const Progress& progress) { display.show(progress); });
  trainer.on_message([&display](const std::string& text) { display.message(text); });

  // The first signal ends the run after the open micro-batch with its state saved; a second one ends the process.
  for (int signal : {SIGINT, SIGTERM}) std::signal(signal, note_signal);
  trainer.stop_when([] { return noted_signal != 0; });
  if (trainer.run()) return;
  const bool interrupted = noted_signal == SIGINT;
  throw Error(interrupted ? ExitCode::kInterrupted : ExitCode::kTerminated,
              interrupted ? "stopped by SIGINT" : "stopped by SIGTERM");
}

}  // namespace
}  // namespace rankfold

int main(int argc, char** argv) {
  return rankfold::run_app({.name = "lora-train",
                            .description = "Trains a LoRA adapter, or the whole model, on a data set.",
                            .required = {"model_name_or_path", "dataset", "output_dir"},
                            .takes_config = true},
                           argc, argv, rankfold::run);
}
