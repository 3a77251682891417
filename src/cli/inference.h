// What lora-eval and lora-generate share: a base, perhaps an adapter on it, and the prompt template they were
// trained with. check_data is lora-train's too.
#pragma once

#include "cli/app.h"
#include "io/model_folder.h"
#include "rankfold/adapter.h"
#include "rankfold/causal_lm.h"

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

// Replaces `prompt_template` by the one that lies in the adapter's folder, else in the model's, unless it was given; then
// it must have no defect. True: a saved one, which is taken as a model was trained with it. Says on standard error what
// such a one holds that is hardly meant, and which one is used where none was given or saved.
bool choose_template(const ModelOptions& options, const Given& given, std::string& prompt_template);

// How a person wrote the setting, for an error about it.
std::string where_given(const Given& given, const std::string& key);

// Refuses settings of the data and a broken data file before the weights are read. A file whose rows lie in a cache was
// whole when they were tokenised, and looking all through a large one again takes seconds: Dataset::open finds out if it
// has changed.
void check_data(const std::string& path, const DataConfig& config, const Given& given);

}  // namespace rankfold
