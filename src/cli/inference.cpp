#include "cli/inference.h"

#include "adapter/peft_format.h"
#include "core/check.h"
#include "core/file.h"
#include "core/json.h"
#include "data/prompt.h"
#include "data/rows.h"
#include "data/template.h"
#include "rankfold/dataset.h"

#include <nlohmann/json.hpp>

#include <filesystem>
#include <iostream>

namespace rankfold {

LoadedModel load_model(const ModelOptions& options) {
  LoadedModel loaded{CausalLM::load(options.model_name_or_path, options.load), {}};
  for (const std::string& note : loaded.model.config().notes) std::cerr << note << "\n";
  if (!options.adapter_name_or_path.empty()) loaded.adapter = Adapter::load(loaded.model, options.adapter_name_or_path);
  for (const std::string& note : notes_of(options.model_name_or_path, options.adapter_name_or_path, loaded.model))
    std::cerr << note << "\n";
  return loaded;
}

std::vector<std::string> notes_of(const std::string& model_folder, const std::string& adapter_folder,
                                  const CausalLM& model) {
  std::vector<std::string> notes;
  if (!adapter_folder.empty())
    notes = notes_on(read_adapter_config(adapter_folder), parts_of(*model.shared_model()).modules);
  if (std::string note = unused_adapter(model_folder, adapter_folder); !note.empty()) notes.push_back(std::move(note));
  return notes;
}

std::string where_given(const Given& given, const std::string& key) {
  const auto at = given.find(key);
  return at == given.end() ? key : at->second;
}

bool choose_template(const ModelOptions& options, const Given& given, std::string& prompt_template) {
  if (given.contains("prompt_template")) {
    if (const std::string defect = template_defect(prompt_template); !defect.empty())
      fail(where_given(given, "prompt_template"), ": ", defect);
    return false;
  }
  for (const std::filesystem::path folder : {options.adapter_name_or_path, options.model_name_or_path}) {
    const auto file = folder / kTemplateFile;
    if (folder.empty() || what_stands_at(file) == "nothing") continue;
    DataConfig saved;
    read_fields(read_json(file), file.string(), saved, /*unknown_is_error=*/true);
    prompt_template = saved.prompt_template;
    if (const std::string defect = template_defect(prompt_template); !defect.empty())
      std::cerr << one_line(join("warning: ", file.string(), ": prompt_template: ", defect,
                                 "; it is used as it was trained with"))
                << "\n";
    return true;
  }
  std::cerr << "prompt template " << brief(prompt_template)
            << ", the default: none was given, and none lies beside the adapter or the model\n";
  return false;
}

void check_data(const std::string& path, const DataConfig& config, const Given& given) {
  if (const std::string defect = template_defect(config.prompt_template); !defect.empty() && !config.template_is_saved)
    fail(where_given(given, "prompt_template"), ": ", defect);
  RowReader(config.columns, /*vocab_size=*/1);  // refuses columns that no layout has
  const auto file = Mapping::open(path);
  const std::filesystem::path cache = Dataset::cache_file(path, config);
  if (cache.empty() || what_stands_at(cache) != "a file") RowFile::open(file, path, config.skip_bad_rows);
}

}  // namespace rankfold
