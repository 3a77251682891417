// What lora-eval and lora-generate share: a base, perhaps an adapter on it, and the prompt template they were
// trained with. check_data is lora-train's too.
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

// What was passed over as model and adapter (may be empty) were loaded, a line each.
std::vector<std::string> notes_of(const std::string& model_folder, const std::string& adapter_folder,
                                  const CausalLM& model);

// What rows and prompts are written with: the templates that were given, else those of the record in the adapter's
// folder, else in the model's, which are taken as a model was trained with them. A prompt_template that is given must
// have no defect. Questions become turns of a conversation where chat_template is given and prompt_template is the
// default, and where the record has a chat template alone. Says on standard error what a saved prompt_template holds
// that is hardly meant, and which one is used where none was given or saved.
void choose_templates(const ModelOptions& options, const Given& given, DataConfig& data);
// Whether the record has a prompt_template and no chat template: what was trained answers questions so.
bool is_trained_with_prompt_template(const ModelOptions& options);
// The chat template alone. `folders`: whose record counts first, where one has a chat template: that of a run that goes
// on.
void choose_chat_template(const ModelOptions& options, DataConfig& data,
                          const std::vector<std::filesystem::path>& folders = {});

// The date that a chat template writes, where none is given: that of the first record in `folders`, else in
// data.chat_record, else today. Nothing where no template of the model writes one.
void choose_date(const std::filesystem::path& model, DataConfig& data,
                 const std::vector<std::filesystem::path>& folders = {});

// How a person wrote the setting, for an error about it.
std::string where_given(const Given& given, const std::string& key);

// Refuses settings of the data and a broken data file before the weights are read. A file whose rows lie in a cache was
// whole when they were tokenised, and looking all through a large one again takes seconds: Dataset::open finds out if it
// has changed.
void check_data(const DataFiles& files, const DataConfig& config, const Given& given);

// Whether a file can be written there, told before hours of work. An empty path: nothing is to be written.
void check_writable(const char* flag, const std::filesystem::path& path);

// Completions end at these, too.
inline void stop_at(const std::vector<int64_t>& ids, GenerateConfig& config) {
  config.stop_token_ids.insert(config.stop_token_ids.end(), ids.begin(), ids.end());
}

}  // namespace rankfold
