// Code that lora-eval and lora-generate share: opening a base with an optional adapter, and choosing the templates that
// it was trained with. lora-train also uses check_data.
#pragma once

#include "cli/app.h"
#include "io/model_folder.h"
#include "rankfold/adapter.h"
#include "rankfold/causal_lm.h"
#include "rankfold/generate.h"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace rankfold {

struct ModelOptions {
  std::string model_name_or_path;
  std::string adapter_name_or_path;
  LoadConfig load;

  template <class V>
  void fields(V&& v) {
    section(v, "model");
    v("model_name_or_path", model_name_or_path, "model folder (Hugging Face layout, safetensors)", allow::text,
      "a path", {"model", "base_model", "model_path"});
    v("adapter_name_or_path", adapter_name_or_path, "adapter folder", allow::any, "a path",
      {"adapter_path", "adapter"});
    load.fields(v);
  }
};

struct LoadedModel {
  CausalLM model;
  std::optional<Adapter> adapter;
};
LoadedModel load_model(const ModelOptions& options);

// What was ignored when model and adapter (may be empty) were loaded, one line each.
std::vector<std::string> notes_of(const std::string& model_folder, const std::string& adapter_folder,
                                  const CausalLM& model);

// Refuses folders that cannot be used, before choose_templates speaks of them. Without weights, a folder that holds a
// tokenizer will do.
void check_folders(const ModelOptions& options, bool reads_weights = true);

// What rows and prompts are written with: the templates that were given, else those of the record in the adapter's
// folder, else in the model's, which are taken as a model was trained with them. A prompt_template that is given must
// have no defect. Questions become turns of a conversation where chat_template is given and prompt_template is the
// default, and where the record has a chat template alone. Says on standard error what a saved prompt_template holds
// that is hardly meant, and which one is used where none was given or saved.
void choose_templates(const ModelOptions& options, const Given& given, DataConfig& data);
// The prompt template in the record of a folder (may be empty); nullopt: there is none. It holds {question}.
std::optional<std::string> saved_prompt_template(const std::filesystem::path& folder);
// Takes such a template over. A warning about what it holds that is hardly meant; empty: nothing.
std::string use_saved_template(const std::filesystem::path& folder, const std::string& saved, DataConfig& data);
// Whether the record has a prompt_template and no chat template: the model was then trained on single questions.
bool is_trained_with_prompt_template(const ModelOptions& options);
// Chooses only the chat template. A record with a chat template in one of `folders` has priority: that of a resumed
// run.
void choose_chat_template(const ModelOptions& options, DataConfig& data,
                          const std::vector<std::filesystem::path>& folders = {});

// Chooses the date that a chat template writes, if none is given: from the first record in `folders`, else from
// data.chat_record, else today. Does nothing if no template of the model writes a date.
void choose_date(const std::filesystem::path& model, DataConfig& data,
                 const std::vector<std::filesystem::path>& folders = {});

// Refuses a quantization_type that would turn on what the user has turned off by 0 or false, and 0 beside load_in_4bit or
// load_in_8bit.
void check_quantization(const LoadConfig& config, const Given& given);

// The setting as the user wrote it, for an error message.
std::string where_given(const Given& given, const std::string& key);

// Rejects wrong data settings and broken data files before the weights are read. Files with cached rows are skipped,
// because checking a large one takes seconds; Dataset::open notices if such a file has changed.
void check_data(const DataFiles& files, const DataConfig& config, const Given& given);

// Checks before hours of work that a file can be written there. An empty path is not checked.
void check_writable(const char* flag, const std::filesystem::path& path);

// Adds ids at which completions end.
inline void stop_at(const std::vector<int64_t>& ids, GenerateConfig& config) {
  config.stop_token_ids.insert(config.stop_token_ids.end(), ids.begin(), ids.end());
}

}  // namespace rankfold
