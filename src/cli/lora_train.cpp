// lora-train: a configuration file and flags in, an adapter or a fully trained model out.
#include "adapter/match.h"
#include "adapter/peft_format.h"
#include "checkpoint/checkpoint.h"
#include "clean/report.h"
#include "cli/app.h"
#include "cli/console.h"
#include "cli/inference.h"
#include "cli/plan_text.h"
#include "cli/progress.h"
#include "cli/run_list.h"
#include "cli/signals.h"
#include "core/card_file.h"
#include "core/check.h"
#include "core/file.h"
#include "core/json.h"
#include "core/number_text.h"
#include "core/same_path.h"
#include "core/write.h"
#include "ops/open_cuda.h"
#include "quant/base_storage.h"
#include "train/run_folder.h"
#include "train/run_state.h"

#include <nlohmann/json.hpp>

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <sstream>

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

// The adapter that training begins with.
struct Start {
  std::string adapter = {};    // its folder; empty: a new adapter, or the whole model
  bool is_checkpoint = false;  // of the run that began from adapter_name_or_path
};

// A run that adapter_name_or_path began is given that again when it is resumed. The checkpoint has all that came from
// there: values, settings and templates.
Start start_of(const RunConfig& config, ProgressDisplay& display) {
  const std::string& adapter = config.adapter_name_or_path;
  if (adapter.empty()) return {};
  std::vector<std::string> lines;
  const auto checkpoint =
      checkpoint_to_resume(config.train, adapter, [&lines](const std::string& line) { lines.push_back(line); });
  if (!checkpoint) return {.adapter = adapter};  // the trainer looks again, and says so
  for (const std::string& line : lines) display.message(line);
  display.message(join("resuming from ", checkpoint->string(), "; adapter_name_or_path ", adapter,
                       " is where the run began", what_stands_at(adapter) == "nothing" ? ", and is gone" : ""));
  return {.adapter = checkpoint->string(), .is_checkpoint = true};
}

// With the checkpoint that the adapter was read from: if another was the newest by now, or none was left, the values
// would not be those of its step.
TrainConfig train_of(const RunConfig& config, const Start& start) {
  TrainConfig train = config.train;
  if (start.is_checkpoint) train.resume_from_checkpoint = start.adapter;
  return train;
}

template <class... Parts>
[[noreturn]] void refuse_setting(const Start& start, const Parts&... parts) {
  if (start.is_checkpoint) throw Error(ExitCode::kResumeRefused, one_line(join(parts...)));
  fail(parts...);
}

// The adapter that a run starts from decides r, alpha, dropout and targets: a setting that says otherwise is
// an error. (target_modules: check_targets.)
void take_adapter_settings(RunConfig& config, const Start& start, const Given& given) {
  const std::string path = (fs::path(start.adapter) / "adapter_config.json").string();
  LoraConfig saved = read_adapter_config(start.adapter).config;
  const Fields asked = fields_of(config.lora), theirs = fields_of(saved);
  for (size_t i = 0; i < asked.size(); ++i) {
    const auto wanted = meaning(asked[i]), there = meaning(theirs[i]);
    if (asked[i].name == "target_modules") continue;
    if (const auto at = given.find(asked[i].name); at != given.end() && wanted != there)
      refuse_setting(start, at->second, ": expected ", brief(there), " as in ", path, ", got ", brief(wanted),
                     ": leave it out");
  }
  config.lora = saved;
}

// The same modules may be named in other words ("all-linear"), which only the model can tell.
void check_targets(const CausalLM& model, const RunConfig& config, const Start& start, const ModuleNames& wanted,
                   const Given& given) {
  const auto at = given.find("target_modules");
  if (start.adapter.empty() || at == given.end()) return;
  const auto names = [&model](const LoraConfig& lora) {
    std::vector<std::string> found;
    for (const ModuleMatch& match : match_modules(lora, parts_of(*model.shared_model()).modules, IdleEntries::kAllowed))
      found.push_back(match.module.name);
    return found;
  };
  LoraConfig asked = config.lora;
  asked.target_modules = wanted;
  if (names(asked) == names(config.lora)) return;
  nlohmann::ordered_json ours, theirs;
  store(wanted, ours);
  store(config.lora.target_modules, theirs);
  refuse_setting(start, at->second, ": expected the modules of ", start.adapter, ", ", brief(theirs), ", got ",
                 brief(ours), ": leave it out");
}

// Questions are written as those that the adapter was trained on, unless the user says how.
void take_prompt_template(const Start& start, const Given& given, DataConfig& data, ProgressDisplay& display) {
  const auto saved = saved_prompt_template(start.adapter);
  if (!saved) return;
  const bool is_same = data.prompt_template == *saved;
  if (data.questions_are_turns)
    return display.message(join("warning: ", where_given(given, "chat_template"), " writes the questions; ",
                                start.adapter, " was trained with the prompt template ", brief(*saved)));
  if (given.contains("prompt_template") && !is_same)
    return display.message(join("warning: ", where_given(given, "prompt_template"), " is ", brief(data.prompt_template),
                                ", which is kept; ", start.adapter, " was trained with ", brief(*saved)));
  if (!given.contains("prompt_template"))
    display.message(
        join("prompt template ", brief(*saved), ", from ", (fs::path(start.adapter) / kTemplateFile).string()));
  if (const std::string warning = use_saved_template(start.adapter, *saved, data); !warning.empty())
    display.message(warning);
}

// The output folder, or the nearest of those that it is to lie in, must be there and be ours to write in.
void check_output_dir(const std::string& where, fs::path path) {
  while (what_stands_at(path) == "nothing") {
    const fs::path parent = path.parent_path();
    path = parent.empty() || parent == path ? "." : parent;
  }
  if (const std::string there = what_stands_at(path); there != "a folder")
    fail(where, ": expected a folder, got the ", there.substr(2), " ", path.string());
  if (::access(path.c_str(), W_OK | X_OK) != 0)
    fail(where, ": expected a folder that can be written to, got ", path.string(), " (", std::strerror(errno), ")");
}

void check_resume(const std::string& where, const fs::path& path) {
  if (path.empty() || path == "auto") return;
  const std::string there = what_stands_at(path);
  if (there == "nothing") fail(where, ": no such folder: ", path.string());
  if (there != "a folder") fail(where, ": expected a folder, got the ", there.substr(2), " ", path.string());
  if (is_foreign_checkpoint(path))
    fail(where, ": expected a checkpoint of lora-train, got ", path.string(), ": ", kForeignCheckpoint);
  if (const auto inside = list_checkpoints(path); !inside.empty())
    fail(where, ": expected a checkpoint, but ", path.string(), " holds ", inside.front().path.filename().string(),
         ": give that or auto");
}

// What repeats a run: the settings that differ from their defaults. Where the result goes is for whoever repeats it to say.
std::string command_of(RunConfig config) {
  static const std::set<std::string> kLeftOut = {
      "output_dir", "resume_from_checkpoint", "dump_rows", "dry_run", "plan", "plan_output", "list", "cache_dir"};
  RunConfig defaults;
  const Fields given = fields_of(config), usual = fields_of(defaults);
  std::string command = "lora-train --output_dir OUT";
  for (size_t i = 0; i < given.size(); ++i) {
    nlohmann::ordered_json value, standard;
    given[i].get(value), usual[i].get(standard);
    if (value == standard || kLeftOut.contains(given[i].name)) continue;
    const std::string text = value.is_string()
                                 ? value.get<std::string>()
                                 : value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
    command += " --" + given[i].name + (text.starts_with("--") ? "=" : " ") + shell_word(text);
  }
  return command;
}

// The rows are kept with the result, and not elsewhere unless a person says so. The config that is written stays as it
// was given: used for another run it must not lead into this one's folder.
DataConfig data_of(const RunConfig& config) {
  DataConfig data = config.data;
  if (data.cache_dir.empty()) data.cache_dir = fs::path(config.train.output_dir) / "cache";
  if (config.dry_run || config.plan) data.cache_dir.clear();
  return data;
}

bool trains_all(const RunConfig& config) {
  return meaning_of(kFinetunings, config.finetuning_type) == Finetuning::kFull;
}

// Checkpoints that a run may go on from, the likeliest first.
std::vector<fs::path> folders_to_resume(const RunConfig& config) {
  const std::string& from = config.train.resume_from_checkpoint;
  if (from.empty()) return {};
  if (from != "auto") return {from};
  std::vector<fs::path> folders;
  for (const auto& checkpoint : list_checkpoints(config.train.output_dir)) folders.push_back(checkpoint.path);
  std::reverse(folders.begin(), folders.end());
  return folders;
}

// With dtype auto a run goes on in what it began with, whatever this machine would choose. float16 needs a device:
// without one the run's state refuses to go on.
LoadConfig load_of(const RunConfig& config) {
  LoadConfig load = config.load;
  if (meaning_of(kDtypes, load.dtype)) return load;
  const auto dtype = dtype_of_run(config.train);
  if (!dtype) return load;
  if (meaning_of(kDtypes, *dtype) != at::kHalf || !ops::open_device(load.device).is_cpu()) load.dtype = *dtype;
  return load;
}

// Better said before the first step than found out from the result.
void note_earlier_run(const RunConfig& config, ProgressDisplay& display) {
  const std::string& folder = config.train.output_dir;
  if (!config.train.resume_from_checkpoint.empty() || config.dry_run || config.plan) return;
  const auto checkpoints = list_checkpoints(folder);
  if (run_of(folder).empty() && checkpoints.empty()) return;
  std::string text = "warning: " + folder + " holds an earlier run, whose result this one replaces";
  if (!checkpoints.empty())
    text += "; --resume_from_checkpoint auto would go on from " + checkpoints.front().path.filename().string();
  display.message(text);
}

// What can be refused before any work.
Start validate(RunConfig& config, const Given& given, ProgressDisplay& display) {
  const auto where = [&given](const char* key) { return where_given(given, key); };
  const bool continues = !config.adapter_name_or_path.empty();
  if (continues && trains_all(config))
    fail(where("adapter_name_or_path"), ": expected finetuning_type lora with it, got ", config.finetuning_type);
  check_quantization(config.load, given);
  const auto storage = storage_of(config.load);
  if (storage) config.load.quantization_bit = bits_of(storage->type);  // the settings that are saved leave no doubt
  if (storage && trains_all(config))
    fail(where("finetuning_type"), ": expected lora for a base in ", text_of(*storage), ", got ",
         config.finetuning_type, ", which trains every value: leave quantization_bit and quantization_type out, or ",
         "train an adapter");
  if (given.contains("output_dir")) {
    if (is_same_path(config.train.output_dir, config.model_name_or_path))
      fail(where("output_dir"), ": expected another folder than the model's, got ", config.train.output_dir);
    check_output_dir(where("output_dir"), config.train.output_dir);
  } else if (config.plan) {
    config.train.output_dir = "out";  // a name is all that it needs
  }
  check_resume(where("resume_from_checkpoint"), config.train.resume_from_checkpoint);
  if (what_stands_at(config.train.output_dir) == "a folder" && !config.dry_run && !config.plan) {
    const FolderLock lock(config.train.output_dir);  // free for now?
    // A checkpoint that a crash left under another name is one to go on from.
    if (continues && config.train.resume_from_checkpoint == "auto") clean_up(config.train.output_dir);
  }
  note_earlier_run(config, display);
  const Start start = start_of(config, display);
  if (continues) take_adapter_settings(config, start, given);
  std::string why_cpu;
  const bool is_cpu = ops::open_device(config.load.device, &why_cpu).is_cpu();
  const ModelOptions from{config.model_name_or_path, start.adapter, config.load};
  choose_chat_template(from, config.data, folders_to_resume(config));
  take_prompt_template(start, given, config.data, display);
  choose_date(config.model_name_or_path, config.data, folders_to_resume(config));
  check_data(config.dataset, data_of(config), given);
  if (!config.eval_dataset.paths.empty()) check_data(config.eval_dataset, data_of(config), given);
  if (!config.eval_dataset.paths.empty() && config.val_size > 0)
    fail(where("val_size"), ": expected this or eval_dataset, got both");
  check_writable("--dump_rows", config.dump_rows);
  check_writable("--plan_output", config.plan_output);
  if (is_cpu) display.message("device: cpu" + (why_cpu.empty() ? "" : " (" + why_cpu + ")"));
  return start;
}

Adapter make_adapter(const CausalLM& model, const RunConfig& config, const Start& start) {
  if (trains_all(config)) return Adapter::full(model);
  if (!start.adapter.empty()) return Adapter::load(model, start.adapter, config.train.seed);
  return Adapter::create(model, config.lora, config.train.seed);
}

// As transformers warns: what lies beyond the positions of its pretraining a model has never seen.
void warn_of_long_rows(std::ostream& out, const Dataset& dataset, const ModelConfig& model, const DataConfig& data) {
  const int64_t longest = std::min(dataset.report().longest, data.max_length);
  if (model.max_position_embeddings > 0 && longest > model.max_position_embeddings)
    out << "warning: rows of up to " << longest << " tokens, but the model was trained on "
        << model.max_position_embeddings << " positions (max_position_embeddings)\n";
}

// The rows that train, and those to evaluate on, where there are any.
std::pair<Dataset, std::optional<Dataset>> open_rows(const RunConfig& config, const CausalLM& model,
                                                     const Tokenizer* tokenizer, std::ostream& out) {
  const auto open = [&](const DataFiles& files, const Tokenizer* shown) {
    Dataset rows = Dataset::open(files, tokenizer, data_of(config), model.config().vocab_size, stop_requested);
    leave_if(stop_requested);
    print_report(out, files, rows, config.data, shown);
    return rows;
  };
  const Dataset rows = open(config.dataset, tokenizer);
  if (config.val_size > 0) {
    const auto parts = rows.hold_out(config.val_size, static_cast<uint64_t>(config.train.seed));
    out << "of these " << with_commas(parts.first.size()) << " train, " << with_commas(parts.second.size())
        << " are held out for evaluation\n";
    return parts;
  }
  if (config.eval_dataset.paths.empty()) return {rows, std::nullopt};
  out << "for evaluation, ";
  return {rows, open(config.eval_dataset, nullptr)};
}

// What lora-data check finds in the rows that train, and of the rows held out among them: a line for each kind.
void print_checks(const RunConfig& config, const std::optional<Dataset>& held_out, ProgressDisplay& display) {
  RowSet rows(config.dataset);
  const uint32_t training = rows.size();
  rows.add(config.eval_dataset);
  std::vector<bool> chosen;  // by val_size, of the same files
  if (config.val_size > 0 && held_out) {
    chosen.resize(training);
    std::map<std::string, uint32_t> begins = {{"", 0}};
    for (size_t i = rows.files().size(); i-- > 0;) begins[rows.files()[i].name()] = rows.begin(i);
    for (int64_t i = 0; i < held_out->size(); ++i)
      chosen.at(begins.at(held_out->file(i)) + static_cast<size_t>(held_out->row_number(i)) - 1) = true;
  }
  std::function<bool(uint32_t)> is_chosen;
  if (!chosen.empty()) is_chosen = [&chosen](uint32_t row) { return row < chosen.size() && chosen[row]; };
  Checker checker({.columns = config.data.columns}, rows, training, is_chosen);
  const CheckResult result = checker.run(stop_requested);
  for (const std::string& line : finding_lines({checker, result, training})) display.message("dataset_checks: " + line);
}

void dump_rows(const Dataset& dataset, const fs::path& path) {
  AtomicFile file(path);
  std::string lines;
  for (int64_t i = 0; i < dataset.size(); ++i) {
    leave_if(stop_requested);
    const Example row = dataset[i];
    lines += nlohmann::ordered_json{{"input_ids", row.input_ids}, {"labels", row.labels}}.dump() + "\n";
    if (constexpr size_t kPage = 1 << 20; lines.size() < kPage && i + 1 < dataset.size()) continue;
    file.write(std::as_bytes(std::span(lines)));
    lines.clear();
  }
  file.commit();
}

// What lora-eval and lora-generate write their rows and prompts with: what this run did.
void add_records(Trainer& trainer, const Dataset& dataset, const DataConfig& data) {
  const ChatTemplate* chat = dataset.chat_template();
  nlohmann::ordered_json record = nlohmann::ordered_json::object();
  if (!chat || dataset.report().questions > 0) record["prompt_template"] = data.prompt_template;
  if (chat) {
    record.update(nlohmann::ordered_json::parse(chat->record()));
    for (const auto& [name, text] : chat->files()) trainer.add_file(name, text);
  }
  trainer.add_file(kTemplateFile, record.dump(2) + "\n");
}

void print_plan_of(const RunConfig& config, const PlanRequest& request, ProgressDisplay& display) {
  const RunPlan plan = make_plan(request);
  const Advice advice = advise(plan, config);
  const DatasetReport& report = request.rows.report();
  std::ostringstream text;
  print_plan(text, plan, advice, report);
  display.message(plan.methods.front().memory.table());
  display.message(text.str());
  if (!config.plan_output.empty()) write_text(config.plan_output, plan_json(plan, advice, report).dump(2) + "\n");
}

// What a resume would refuse a dry run refuses too. `train` is the Trainer's config.
void check_resumption(const CausalLM& model, const Adapter& adapter, const Dataset& dataset, const TrainConfig& train,
                      const std::string& parent, int64_t total_steps, ProgressDisplay& display) {
  const auto say = [&display](const std::string& line) { display.message(line); };
  const auto checkpoint = checkpoint_to_resume(train, parent, say);
  if (!checkpoint) return;  // which is said where one was asked for
  const auto identity = identity_of(model, adapter, dataset, train, stop_requested);
  const int64_t step = read_resumption(*checkpoint, identity, model, train, total_steps, say).first.step;
  const std::string place = join("dry_run: would resume ", checkpoint->string(), " at step ", step);
  if (step < total_steps)
    display.message(join(place, " and go on with step ", step + 1, " of ", total_steps));
  else
    display.message(join(place, ", the last: no step is left to train"));
}

void run(RunConfig& config, const Given& given) {
  using Clock = std::chrono::steady_clock;
  const auto began = Clock::now();
  if (!config.list.empty()) return print_runs(std::cout, config.list, find_runs(config.list));
  config.plan = config.plan || !config.plan_output.empty();
  const ModuleNames targets = config.lora.target_modules;
  ProgressDisplay display;
  const Start start = validate(config, given, display);
  const LoadConfig load = load_of(config);
  const CausalLM model = CausalLM::load(config.model_name_or_path, load);
  for (const std::string& note : model.config().notes) display.message(note);
  if (load.dtype != config.load.dtype && model.dtype() != model.config().stored_dtype)
    display.message("dtype auto: computes in " + load.dtype + ", as the run did so far");
  const Tokenizer* tokenizer = model.has_tokenizer() ? &model.tokenizer() : nullptr;
  check_targets(model, config, start, targets, given);
  for (const std::string& note : notes_of(config.model_name_or_path, start.adapter, model)) display.message(note);
  std::optional<Adapter> adapter;  // a plan makes its own
  if (!config.plan) adapter = make_adapter(model, config, start);
  leave_if(stop_requested);
  std::ostringstream rows_text;
  const auto [dataset, held_out] = open_rows(config, model, tokenizer, rows_text);
  print_sample(rows_text, dataset, tokenizer);
  warn_of_long_rows(rows_text, dataset, model.config(), config.data);
  if (!config.dump_rows.empty()) dump_rows(dataset, config.dump_rows);
  const auto say_modules = [&](const CausalLM& trained, const Adapter& by) {
    std::ostringstream text;
    print_modules(text, trained, by);
    display.message(text.str());
  };
  if (adapter) say_modules(model, *adapter);
  display.message(rows_text.str());
  if (config.dataset_checks) print_checks(config, held_out, display);
  if (config.plan) {
    RunConfig planned = config;
    planned.load = load;
    planned.adapter_name_or_path = start.adapter;
    return print_plan_of(config,
                         {.config = planned,
                          .rows = dataset,
                          .held_out = held_out,
                          .start_seconds = std::chrono::duration<double>(Clock::now() - began).count(),
                          .stop = stop_requested,
                          .on_configured = say_modules},
                         display);
  }

  const TrainConfig train = train_of(config, start);
  Trainer trainer(model, *adapter, dataset, train);
  if (held_out) trainer.evaluate_on(*held_out);
  if (config.dry_run) {
    display.message(trainer.memory_plan());
    check_resumption(model, *adapter, dataset, train, config.adapter_name_or_path, trainer.total_steps(), display);
    display.message(join(with_commas(trainer.total_steps()), " steps; dry_run: nothing is trained"));
    return;
  }
  add_records(trainer, dataset, config.data);
  trainer.add_file("rankfold_config.json", to_json(config).dump(2) + "\n");
  trainer.describe(
      {.command = command_of(config), .data = config.dataset.text(), .parent = config.adapter_name_or_path});
  trainer.on_progress([&display](const Progress& progress) { display.show(progress); });
  trainer.on_message([&display](const std::string& text) { display.message(text); });

  trainer.stop_when(stop_requested);
  trainer.save_when(take_save_request);
  if (!trainer.run()) throw Stopped();
}

}  // namespace
}  // namespace rankfold

int main(int argc, char** argv) {
  return rankfold::run_app({.name = "lora-train",
                            .description = "Trains a LoRA adapter, or the whole model, on a data set.",
                            .required = {"model_name_or_path", "dataset", "output_dir"},
                            .spares = {{"list", {"model_name_or_path", "dataset", "output_dir"}},
                                       {"plan", {"output_dir"}},
                                       {"plan_output", {"output_dir"}}},
                            .needs_less_memory = "a smaller per_device_train_batch_size or max_length",
                            .takes_config = true,
                            .stops_in_order = true,
                            .prints_result = false},
                           argc, argv, rankfold::run);
}
