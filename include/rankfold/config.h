// All settings of a run. Each key is spelled once, in fields(). JSON parsing, flags, --help, the resolved config and
// the checks are visitors of fields(). Adapter settings have PEFT's names, the others Hugging Face's; the aliases come
// from other trainers.
//
// A visitor is called as v(key, member, help, check, expected, aliases). `check(member)` tells whether the value is
// allowed, and `expected` is the error text otherwise. The programs check a config when they read it. Trainer,
// Adapter::create, CausalLM::load, Dataset::open, generate and merge check it when they are called. They throw
// UserError "KEY: expected ..., got ...".
//
// The help of a run's field also tells what a resume does with it, as in on_resume::may_change("peak learning rate").
// RunHelp converts to the help text. If a visitor has a member section(title), it receives the --help heading of the
// fields that follow.
#pragma once

#include "rankfold/choices.h"
#include "rankfold/ordered_map.h"

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace rankfold {

using StringList = std::vector<std::string>;
using Aliases = std::initializer_list<const char*>;

// Selects modules by name. A list entry matches a module whose name equals it or ends in "." + entry. A string is a
// regular expression that must match the whole name, or "all-linear" (every linear layer except the output head). Empty
// list: not set.
// As in other trainers, "all" means all-linear, and a file or a flag may give a list as one text with commas.
using ModuleNames = std::variant<StringList, std::string>;

// Data files, read in order as one data set. A config file gives a text or a list of texts. A text with commas is a
// list, unless a file has the whole text as its name.
struct DataFiles {
  StringList paths;
  DataFiles() = default;
  DataFiles(const char* text) : DataFiles(std::string(text)) {}  // NOLINT(google-explicit-constructor)
  DataFiles(const std::string& text);                            // NOLINT(google-explicit-constructor)
  std::string text() const;                                      // comma-separated, for messages
};

// A JSON object as text; empty: not set, written as null.
struct JsonObject {
  std::string text;
};

// Parses a size: "5GB", "500 MB", "16G" (powers of ten, as in Hugging Face's tools), "4GiB", or a number of bytes.
// nullopt: none of these.
std::optional<uint64_t> parse_size(const std::string& text);
// A date and time of day; parse_date() reads "2025-03-07", "2025-03-07 09:05" or "2025-03-07 09:05:03" (also with a T).
// nullopt: none of these.
struct Date {
  int year = 0, month = 1, day = 1, hour = 0, minute = 0, second = 0;
};
std::optional<Date> parse_date(const std::string& text);
// Parses true, yes, y, t, 1 and false, no, n, f, 0 in any case, as in Hugging Face's tools. nullopt: none of these.
std::optional<bool> parse_bool(const std::string& text);

namespace allow {
inline constexpr auto any = [](const auto&) { return true; };
inline constexpr auto text = [](const std::string& x) { return !x.empty(); };
inline constexpr auto positive = [](auto x) { return x > 0; };
inline constexpr auto not_negative = [](auto x) { return x >= 0 && std::isfinite(static_cast<double>(x)); };
// Within the range of normal floats.
inline constexpr auto positive_float = [](double x) {
  return x >= double{std::numeric_limits<float>::min()} && x <= double{std::numeric_limits<float>::max()};
};
// Numbers of rows and micro-batches. The bound keeps the product of two of them from overflowing.
inline constexpr auto count = [](int64_t x) { return x >= 1 && x <= int64_t{1} << 20; };
inline constexpr auto size = [](const std::string& x) { return x.empty() || parse_size(x); };
inline constexpr auto date = [](const std::string& x) { return x.empty() || parse_date(x); };
inline constexpr auto fraction = [](double x) { return x >= 0 && x < 1; };
// A double holds every integer up to 2^53.
inline constexpr auto count_or_share = [](double x) {
  return fraction(x) || (x >= 1 && x <= 0x1p53 && x == std::floor(x));
};
inline constexpr auto files = [](const DataFiles& x) {
  for (const std::string& path : x.paths)
    if (path.empty()) return false;
  return !x.paths.empty();
};
inline auto one_of(std::initializer_list<const char*> names) {
  return [names = StringList(names.begin(), names.end())](const std::string& x) {
    for (const auto& name : names)
      if (x == name) return true;
    return false;
  };
}
template <const auto& table>
struct WordOf {
  static constexpr bool lists_words = true;  // --help lists the words
  bool operator()(const std::string& x) const { return find_word(table, x) != nullptr; }
};
template <const auto& table>
inline constexpr WordOf<table> word_of = {};
}  // namespace allow

// The words of a table as the text of an error. The pointer stays valid.
template <const auto& table>
const char* words_of() {
  static const std::string text = list_words(table);
  return text.c_str();
}

// What a resume does with a setting.
enum class Resume {
  kSame,        // must equal the value in the checkpoint, else the resume is refused
  kSameResult,  // must lead to the same rows, weights or modules as in the checkpoint
  kMayChange,   // the run continues with the new value and reports the change
  kFree,        // does not affect what is computed
};
// The help text of a field, and what a resume does with the field.
struct RunHelp {
  Resume resume;
  const char* text;
  constexpr operator const char*() const { return text; }
};
namespace on_resume {
constexpr RunHelp same(const char* help) { return {Resume::kSame, help}; }
constexpr RunHelp same_result(const char* help) { return {Resume::kSameResult, help}; }
constexpr RunHelp may_change(const char* help) { return {Resume::kMayChange, help}; }
constexpr RunHelp free(const char* help) { return {Resume::kFree, help}; }
}  // namespace on_resume

template <class V>
void section(V& v, const char* title) {
  if constexpr (requires { v.section(title); }) v.section(title);
}

// Fields for quantised linear layers, as in LoadConfig. `bits`: the help text of quantization_bit.
template <class V, class Config>
void quantization_fields(V& v, Config& config, const char* bits) {
  v("quantization_bit", config.quantization_bit, on_resume::same_result(bits),
    [](int64_t x) { return x == 0 || x == 4 || x == 8; }, "0, 4 or 8", {});
  v("quantization_type", config.quantization_type,
    on_resume::same_result("what those bits mean; alone it sets them, too; auto: nf4 for 4, int8 for 8"),
    allow::word_of<kQuantizationTypes>, words_of<kQuantizationTypes>(), {"bnb_4bit_quant_type"});
  v("double_quantization", config.double_quantization,
    on_resume::same_result("keep the scales of nf4 and fp4 in 8 bits, too"), allow::any, "true or false",
    {"bnb_4bit_use_double_quant"});
  v("quantize_lm_head", config.quantize_lm_head,
    on_resume::same_result("quantise lm_head, too, where it is not tied to the embedding"), allow::any, "true or false",
    {});
  v("load_in_4bit", config.load_in_4bit, on_resume::same_result("the same as quantization_bit 4"), allow::any,
    "true or false", {});
  v("load_in_8bit", config.load_in_8bit, on_resume::same_result("the same as quantization_bit 8"), allow::any,
    "true or false", {});
}

// Settings of CausalLM::load.
struct LoadConfig {
  std::string device = "auto";             // auto | cpu | cuda[:n]
  std::string dtype = "auto";              // a word of kDtypes; the texts below are words of their tables, too
  int64_t quantization_bit = 0;            // 0: as stored, else 4 or 8
  std::string quantization_type = "auto";  // auto: nf4 for 4 bits, int8 for 8
  bool double_quantization = false;
  bool quantize_lm_head = false;
  bool load_in_4bit = false, load_in_8bit = false;  // the same as quantization_bit 4 or 8, as bitsandbytes names them

  template <class V>
  void fields(V&& v) {
    section(v, "model");
    v("device", device, on_resume::free("where to compute: auto, cpu, cuda or cuda:N"), allow::text,
      "auto, cpu, cuda or cuda:N", {});
    v("dtype", dtype,
      on_resume::same_result("numbers to compute in; auto: as stored, 16 bits as bfloat16 or, where faster, float32"),
      allow::word_of<kDtypes>, words_of<kDtypes>(), {"torch_dtype"});
    quantization_fields(v, *this, "keep the linear layers of a 16- or 32-bit folder in 4 or 8 bits; 0: as stored");
  }
};

// LoRA settings, named as in PEFT's LoraConfig. adapter_config.json is read into the same struct.
struct LoraConfig {
  int64_t r = 8;
  double lora_alpha = 8;
  double lora_dropout = 0;
  ModuleNames target_modules = StringList{};
  ModuleNames exclude_modules = StringList{};
  std::string bias = "none";
  StringList modules_to_save = {};
  bool use_rslora = false;
  // If several entries match a module, the first one applies.
  OrderedMap<int64_t> rank_pattern = {};
  OrderedMap<double> alpha_pattern = {};
  std::vector<int64_t> layers_to_transform = {};

  template <class V>
  void fields(V&& v) {
    section(v, "LoRA");
    const auto rank = [](int64_t x) { return x >= 1 && x <= 4096; };
    v("r", r, on_resume::same("rank of the update"), rank, "an integer in [1, 4096]", {"lora_rank", "lora_r", "rank"});
    v("lora_alpha", lora_alpha, on_resume::same("the update is scaled by lora_alpha / r"), allow::positive_float,
      "a number above 0, finite in float32", {});
    v("lora_dropout", lora_dropout, on_resume::same("chance to drop an input of the update"), allow::fraction,
      "a number in [0, 1)", {});
    v("target_modules", target_modules,
      on_resume::same_result("list of module names, a regular expression, or all-linear"), allow::any,
      "a list of names or a string", {"lora_target", "lora_target_modules"});
    v("exclude_modules", exclude_modules, on_resume::same_result("modules left out, same rules"), allow::any,
      "a list of names or a string", {});
    v("bias", bias, on_resume::same_result("which biases train: none, those of adapted modules, or all"),
      allow::one_of({"none", "lora_only", "all"}), "none, lora_only or all", {});
    v("modules_to_save", modules_to_save,
      on_resume::same_result("modules that train as a whole, by the ends of their names: lm_head, embed_tokens, norm"),
      [](const StringList& names) {
        for (const std::string& name : names)
          if (name.empty()) return false;
        return names.size() <= 1000;
      },
      "a list of at most 1000 names", {"additional_target"});
    v("use_rslora", use_rslora, on_resume::same("scale by lora_alpha / sqrt(r) instead"), allow::any, "true or false",
      {});
    v("rank_pattern", rank_pattern,
      on_resume::same("another r for modules that match a name or regular expression; the first that matches counts"),
      [rank](const OrderedMap<int64_t>& m) {
        for (const auto& [name, x] : m)
          if (!rank(x)) return false;
        return true;
      },
      "an object of integers in [1, 4096]", {});
    v("alpha_pattern", alpha_pattern, on_resume::same("another lora_alpha for modules that match; the first counts"),
      [](const OrderedMap<double>& m) {
        for (const auto& [name, x] : m)
          if (!allow::positive_float(x)) return false;
        return true;
      },
      "an object of numbers above 0, finite in float32", {});
    v("layers_to_transform", layers_to_transform, on_resume::same_result("only these layers (indices)"),
      [](const std::vector<int64_t>& layers) {
        for (int64_t x : layers)
          if (x < 0) return false;
        return true;
      },
      "a list of layer indices", {});
  }
};

// How rows of a data file become token ids and labels.
struct DataConfig {
  int64_t max_length = 1024;
  std::string truncation_strategy = "truncate";
  std::string prompt_template = "{question}\n";
  std::string chat_template = {};  // a file or a built-in name; empty: the folder's own
  JsonObject chat_template_kwargs = {};
  std::string template_date = {};  // "2025-03-07" or "2025-03-07 09:05:03"
  bool train_on_prompt = false;
  bool train_on_last_turn = false;
  std::map<std::string, std::string> columns = {};  // standard column name -> name in the file
  bool skip_bad_rows = false;
  std::string cache_dir = {};  // tokenised rows are cached here; empty: no cache
  // The members below are not settings. True: prompt_template comes from a trained model, so its content is not
  // checked.
  bool template_is_saved = false;
  // True: a row with question and answer is a conversation, too, and the chat template formats it.
  bool questions_are_turns = false;
  // Folder of a model or adapter. Its record of a chat template takes precedence over the tokenizer's folder.
  std::string chat_record = {};

  template <class V>
  void fields(V&& v) {
    section(v, "data");
    v("max_length", max_length, on_resume::same_result("most tokens in a row"), allow::positive, "an integer above 0",
      {"cutoff_len", "max_seq_length", "model_max_length", "sequence_len", "max_len"});
    v("truncation_strategy", truncation_strategy, on_resume::same_result("what happens to a longer row"),
      allow::word_of<kOverlongs>, words_of<kOverlongs>(), {"overlong"});
    v("prompt_template", prompt_template, on_resume::same_result("text before the answer; {question} is replaced"),
      [](const std::string& x) { return x.find("{question}") != std::string::npos; }, "a text that holds {question}",
      {"template"});
    v("chat_template", chat_template,
      on_resume::same_result("template for conversations: a Jinja file, or baichuan, baichuan2, llama2, chatml, "
                             "alpaca, vicuna; without it the model folder's own"),
      allow::any, "a file or a name", {});
    v("chat_template_kwargs", chat_template_kwargs,
      on_resume::same_result("variables for the chat template: {\"enable_thinking\": false}"), allow::any,
      "a JSON object", {});
    v("template_date", template_date,
      on_resume::same_result(
          "date that the chat template writes; without it the day of the first start, kept with the run"),
      allow::date, "a date such as 2025-03-07 or \"2025-03-07 09:05:03\"", {});
    v("train_on_prompt", train_on_prompt, on_resume::same_result("learn the prompt too"), allow::any, "true or false",
      {"train_on_inputs"});
    v("train_on_last_turn", train_on_last_turn, on_resume::same_result("learn only the last answer of a conversation"),
      allow::any, "true or false", {"mask_history"});
    v("columns", columns, on_resume::same_result("columns with other names in the file: question=query,answer=reply"),
      allow::any, "an object of texts", {});
    v("skip_bad_rows", skip_bad_rows,
      on_resume::same_result("leave out broken rows, count and name them; without it the first one is an error"),
      allow::any, "true or false", {});
    v("cache_dir", cache_dir,
      on_resume::free(
          "folder for tokenised data, which later runs read; lora-train takes output_dir/cache if not told"),
      allow::any, "a path", {"tokenized_path", "dataset_prepared_path"});
  }
};

// Settings of training, with the names of Hugging Face's TrainingArguments.
struct TrainConfig {
  std::string output_dir = {};
  int64_t per_device_train_batch_size = 8;
  int64_t gradient_accumulation_steps = 1;
  double num_train_epochs = 3;
  int64_t max_steps = -1;  // above 0: replaces num_train_epochs
  double learning_rate = 5e-5;
  std::string lr_scheduler_type = "linear";
  double warmup_steps = 0;  // below 1: a share of all steps, as in transformers 5
  double warmup_ratio = 0;
  double weight_decay = 0;
  double max_grad_norm = 1;  // 0: no clipping
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.999;
  double adam_epsilon = 1e-8;
  int64_t seed = 42;
  bool shuffle = true;
  int64_t logging_steps = 10;
  int64_t save_steps = 500;      // 0: only at the end
  int64_t save_total_limit = 0;  // 0: keep all
  std::string resume_from_checkpoint = {};
  std::string on_disk_full = "wait";
  std::string gradient_checkpointing = "auto";
  std::string memory_budget = {};
  std::string eval_strategy = "auto";
  double eval_steps = 0;  // 0: logging_steps; below 1: a share of all steps
  bool eval_on_start = false;
  int64_t per_device_eval_batch_size = 8;
  int64_t eval_samples = 3;
  int64_t eval_max_new_tokens = 64;
  std::string metric_for_best_model = "eval_loss";
  bool load_best_model_at_end = false;
  int64_t early_stopping_patience = 0;  // 0: never
  double early_stopping_threshold = 0;
  std::string report_to = "none";

  template <class V>
  void fields(V&& v) {
    section(v, "saving");
    v("output_dir", output_dir, on_resume::free("folder for the result and the checkpoints"), allow::text, "a path",
      {"output"});
    section(v, "training");
    v("per_device_train_batch_size", per_device_train_batch_size, on_resume::same("rows in a micro-batch"),
      allow::count, "an integer in [1, 1048576]", {"batch_size", "micro_batch_size"});
    v("gradient_accumulation_steps", gradient_accumulation_steps, on_resume::same("micro-batches in an optimizer step"),
      allow::count, "an integer in [1, 1048576]", {"accumulation", "accumulation_steps", "grad_accumulation"});
    v("num_train_epochs", num_train_epochs, on_resume::may_change("passes over the data"),
      [](double x) { return x > 0 && std::isfinite(x); }, "a number above 0", {"epochs", "num_epochs"});
    v("max_steps", max_steps, on_resume::may_change("optimizer steps; above 0 it replaces num_train_epochs"),
      [](int64_t x) { return x == -1 || x > 0; }, "an integer above 0, or -1", {});
    v("learning_rate", learning_rate, on_resume::may_change("peak learning rate"), allow::not_negative,
      "a number of 0 or more", {"lr"});
    v("lr_scheduler_type", lr_scheduler_type, on_resume::may_change("how the rate moves after its warm-up"),
      allow::word_of<kSchedules>, words_of<kSchedules>(), {"lr_scheduler"});
    v("warmup_steps", warmup_steps, on_resume::may_change("steps of warm-up; below 1 a ratio of all steps"),
      [](double x) { return x >= 0 && (x < 1 || x == std::floor(x)) && std::isfinite(x); },
      "an integer, or a ratio in [0, 1)", {});
    v("warmup_ratio", warmup_ratio, on_resume::may_change("share of all steps that warms up"), allow::fraction,
      "a number in [0, 1)", {});
    v("weight_decay", weight_decay, on_resume::may_change("AdamW's decay (norms and biases excepted)"),
      allow::not_negative, "a number of 0 or more", {});
    v("max_grad_norm", max_grad_norm, on_resume::may_change("the gradient is scaled down to this norm; 0: never"),
      allow::not_negative, "a number of 0 or more", {});
    v("adam_beta1", adam_beta1, on_resume::may_change("AdamW's beta1"), allow::fraction, "a number in [0, 1)", {});
    v("adam_beta2", adam_beta2, on_resume::may_change("AdamW's beta2"), allow::fraction, "a number in [0, 1)", {});
    v("adam_epsilon", adam_epsilon, on_resume::may_change("AdamW's epsilon"),
      [](double x) { return x > 0 && std::isfinite(x); }, "a number above 0", {});
    v("seed", seed, on_resume::same("of order, initial values and dropout"), allow::not_negative,
      "an integer of 0 or more", {});
    v("shuffle", shuffle, on_resume::same("a new order each epoch; false keeps the file's"), allow::any,
      "true or false", {});
    section(v, "saving");
    v("logging_steps", logging_steps, on_resume::free("steps between log lines"), allow::positive, "an integer above 0",
      {});
    v("save_steps", save_steps, on_resume::free("steps between checkpoints; 0: only at the end"), allow::not_negative,
      "an integer of 0 or more", {});
    v("save_total_limit", save_total_limit, on_resume::free("newest checkpoints kept; 0: all"), allow::not_negative,
      "an integer of 0 or more", {});
    v("resume_from_checkpoint", resume_from_checkpoint,
      on_resume::free("a checkpoint folder, or auto: the newest whole one"),
      [](const std::string& x) { return !parse_bool(x); }, "auto or a path", {"resume"});
    v("on_disk_full", on_disk_full, on_resume::free("what a finished run does that cannot be saved for want of space"),
      allow::word_of<kDiskFulls>, words_of<kDiskFulls>(), {});
    v("report_to", report_to, on_resume::free("who else is told; tensorboard: event files below output_dir/runs"),
      allow::word_of<kReports>, words_of<kReports>(), {});
    section(v, "evaluation");
    v("eval_strategy", eval_strategy,
      on_resume::free("when held-out rows are evaluated; auto: every eval_steps where that is given, else each epoch"),
      allow::word_of<kEvalStrategies>, words_of<kEvalStrategies>(), {"evaluation_strategy"});
    v("eval_steps", eval_steps,
      on_resume::free("steps between evaluations; below 1 a share of all steps; 0: logging_steps"),
      allow::count_or_share, "an integer, or a share in [0, 1)", {});
    v("eval_on_start", eval_on_start, on_resume::free("evaluate before the first step, too"), allow::any,
      "true or false", {});
    v("per_device_eval_batch_size", per_device_eval_batch_size, on_resume::free("most rows in a batch of evaluation"),
      allow::count, "an integer in [1, 1048576]", {"eval_batch_size"});
    v("eval_samples", eval_samples,
      on_resume::free("held-out rows whose prompts the model answers at each evaluation; 0: none"), allow::not_negative,
      "an integer of 0 or more", {});
    v("eval_max_new_tokens", eval_max_new_tokens, on_resume::free("longest of these answers in tokens"),
      allow::positive, "an integer above 0", {});
    v("metric_for_best_model", metric_for_best_model,
      on_resume::free("metric of an evaluation that tells the best step; the lower of losses, else the higher"),
      allow::text, "a name such as eval_loss", {});
    v("load_best_model_at_end", load_best_model_at_end, on_resume::free("the result is that of the best step"),
      allow::any, "true or false", {});
    v("early_stopping_patience", early_stopping_patience,
      on_resume::free("end after so many evaluations without a new best; 0: never"), allow::not_negative,
      "an integer of 0 or more", {});
    v("early_stopping_threshold", early_stopping_threshold,
      on_resume::free("what counts as a new best for early_stopping_patience: better by more than this"),
      allow::not_negative, "a number of 0 or more", {});
    section(v, "memory");
    v("gradient_checkpointing", gradient_checkpointing,
      on_resume::free("what the backward pass computes again instead of keeping it; auto: the least that fits"),
      allow::word_of<kCheckpointings>, words_of<kCheckpointings>(), {});
    v("memory_budget", memory_budget,
      on_resume::free("most memory that the run may take, such as 16GB; empty: what is there"), allow::size,
      "a size such as 16GB or 500MB", {});
  }
};

// All settings of one lora-train run; its JSON file is one flat object.
struct RunConfig {
  std::string model_name_or_path;
  DataFiles dataset;
  std::string finetuning_type = "lora";
  std::string adapter_name_or_path;
  DataFiles eval_dataset;
  double val_size = 0;  // below 1: a share of the rows
  std::string dump_rows;
  bool dataset_checks = false;
  bool dry_run = false;
  bool plan = false;
  std::string plan_output;
  std::string list;
  LoadConfig load;
  LoraConfig lora;
  DataConfig data;
  TrainConfig train;

  template <class V>
  void fields(V&& v) {
    section(v, "model");
    v("model_name_or_path", model_name_or_path,
      on_resume::same_result("model folder (Hugging Face layout, safetensors)"), allow::text, "a path",
      {"model", "base_model", "model_path"});
    section(v, "data");
    v("dataset", dataset, on_resume::same_result("JSON array or JSON Lines; several with commas between"), allow::files,
      "a path or a list of paths", {"data_path", "train_file", "data"});
    v("eval_dataset", eval_dataset, on_resume::free("held-out rows to evaluate on while training"),
      [](const DataFiles& x) { return x.paths.empty() || allow::files(x); }, "a path or a list of paths",
      {"validation_file", "val_file"});
    v("val_size", val_size,
      on_resume::same_result("hold out so many rows of the data, chosen by seed; below 1 a share of them"),
      allow::count_or_share, "an integer, or a share in [0, 1)", {"val_set_size"});
    v("dump_rows", dump_rows, on_resume::free("JSON Lines file for the input_ids and labels of every row"), allow::any,
      "a path", {});
    v("dataset_checks", dataset_checks,
      on_resume::free("look through the rows as lora-data check does, and say what is found; no row is changed"),
      allow::any, "true or false", {});
    section(v, "training");
    v("finetuning_type", finetuning_type, on_resume::same("what trains: an adapter, or every parameter"),
      allow::word_of<kFinetunings>, words_of<kFinetunings>(), {});
    section(v, "model");
    v("adapter_name_or_path", adapter_name_or_path,
      on_resume::free("start from this adapter; its config decides r, alpha, targets"), allow::any, "a path",
      {"adapter_path", "adapter"});
    section(v, "training");
    v("dry_run", dry_run,
      on_resume::free("do all that comes before the first step, then end; output_dir stays as it is"), allow::any,
      "true or false", {});
    v("plan", plan,
      on_resume::free("dry_run, with time and memory from a few steps that are measured, and advice on the method"),
      allow::any, "true or false", {});
    v("plan_output", plan_output, on_resume::free("JSON file for the plan, besides standard output"), allow::any,
      "a path", {});
    v("list", list, on_resume::free("print the runs below this folder, their metrics and what differs, then end"),
      allow::any, "a folder", {});
    load.fields(v);
    lora.fields(v);
    data.fields(v);
    train.fields(v);
  }
};

}  // namespace rankfold
