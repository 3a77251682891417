#include "cli/inference.h"

#include "adapter/merge_form.h"
#include "adapter/peft_format.h"
#include "core/check.h"
#include "core/file.h"
#include "core/json.h"
#include "data/prompt.h"
#include "data/rows.h"
#include "data/template.h"
#include "model/model.h"
#include "rankfold/chat_template.h"
#include "rankfold/dataset.h"

#include <nlohmann/json.hpp>

#include <ctime>
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

namespace {

// Adds a note where the base is in another form than the one that the adapter was trained on.
void note_on_base(const std::string& model_folder, const std::string& adapter_folder, const Model& model,
                  std::vector<std::string>& notes) {
  const TrainedBase trained = trained_base(model_folder, adapter_folder, notes);
  const std::string open = model.quantized ? format_of(*model.quantized)
                           : model.storage ? format_of(*model.storage)
                                           : "";
  const bool are_both_loaded = model.storage && trained.place && trained.place->storage;
  if (!trained.is_known || (are_both_loaded ? trained.place->storage == model.storage : trained.format == open)) return;
  if (!trained.place && model.quantized) return;  // this very folder
  std::string note = join(adapter_folder, " was trained on ",
                          !trained.place           ? "a base as stored"
                          : trained.place->storage ? "a base in " + text_of(*trained.place)
                                                   : text_of(*trained.place),
                          "; this one is ",
                          model.quantized ? model.quantized->text()
                          : model.storage ? "in " + text_of(*model.storage)
                                          : "as stored");
  if (!trained.place)
    note += ": leaving out quantization_bit and quantization_type would make it the same";
  else if (!trained.place->storage)
    note += ": that folder as model_name_or_path makes it the same";
  else if (!model.quantized)
    note += ": " + flags_of(*trained.place->storage) + " makes it the same";
  notes.push_back(std::move(note));
}

}  // namespace

std::vector<std::string> notes_of(const std::string& model_folder, const std::string& adapter_folder,
                                  const CausalLM& model) {
  std::vector<std::string> notes;
  if (!adapter_folder.empty()) {
    const Model& base = *model.shared_model();
    notes = notes_on(read_adapter_config(adapter_folder), parts_of(base).modules);
    note_on_base(model_folder, adapter_folder, base, notes);
  }
  if (std::string note = unused_adapter(model_folder, adapter_folder); !note.empty()) notes.push_back(std::move(note));
  return notes;
}

void check_quantization(const LoadConfig& config, const Given& given) {
  const auto refuse = [&given](const char* key, const char* expected, const std::string& beside, const char* got) {
    if (given.contains(key))
      fail(where_given(given, key), ": expected ", expected, " beside ", beside, ", got ", got,
           ": leave one of the two out");
  };
  const bool is_set = config.load_in_4bit || config.load_in_8bit;
  if (config.quantization_bit != 0) return;
  if (is_set) refuse("quantization_bit", "4 or 8", config.load_in_4bit ? "load_in_4bit" : "load_in_8bit", "0");
  const auto storage = storage_of(config);
  if (is_set || !storage) return;
  const std::string beside = where_given(given, "quantization_type") + " " + config.quantization_type;
  refuse("quantization_bit", "4 or 8", beside, "0");
  refuse(bits_of(storage->type) == 4 ? "load_in_4bit" : "load_in_8bit", "true", beside, "false");
}

std::string where_given(const Given& given, const std::string& key) {
  const auto at = given.find(key);
  return at == given.end() ? key : at->second;
}

namespace {

struct Record {
  nlohmann::json said = nlohmann::json::object();  // prompt_template.json
  std::filesystem::path folder;                    // empty: there is none
  bool has_chat() const {
    return said.contains("chat_template") && what_stands_at(folder / kChatTemplateFile) == "a file";
  }
};

Record read_record(const std::filesystem::path& folder) {
  const auto file = folder / kTemplateFile;
  if (folder.empty() || what_stands_at(file) == "nothing") return {};
  Record record{read_json(file), folder};
  if (!record.said.is_object()) fail(file.string(), ": expected an object");
  for (const auto& [key, value] : record.said.items()) {
    const bool is_text = key == "prompt_template" || key == "chat_template" || key == "template_date";
    const bool is_known =
        is_text || key == "chat_templates" || key == "chat_template_kwargs" || key == "chat_control_token_ids";
    if (!is_known) fail(file.string(), ": unknown key '", key, "'");
    if (is_text && !value.is_string()) fail(file.string(), ": ", key, ": expected a text, got ", brief(value));
  }
  return record;
}

Record record_of(const ModelOptions& options) {
  Record record = read_record(options.adapter_name_or_path);
  return record.folder.empty() ? read_record(options.model_name_or_path) : record;
}

void take_chat_template(const Record& record, DataConfig& data) {
  const bool is_given = !data.chat_template.empty();
  if (!is_given && record.has_chat()) data.chat_record = record.folder.string();
  // By its value: a config that a run has written names every setting.
  data.questions_are_turns = data.prompt_template == DataConfig{}.prompt_template &&
                             (is_given || (record.has_chat() && !record.said.contains("prompt_template")));
}

// With a place for the question; nullopt: the record has none.
std::optional<std::string> prompt_template_of(const Record& record) {
  const auto saved = record.said.find("prompt_template");
  if (saved == record.said.end()) return std::nullopt;
  const auto text = saved->get<std::string>();
  if (text.find("{question}") == std::string::npos)
    fail((record.folder / kTemplateFile).string(), ": prompt_template: expected a text that holds {question}, got ",
         brief(*saved));
  return text;
}

// The day alone: a data set is tokenised once a day at most.
std::string today() {
  const std::time_t seconds = std::time(nullptr);
  std::tm local = {};
  localtime_r(&seconds, &local);
  char text[32];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%d", &local)};
}

}  // namespace

void check_folders(const ModelOptions& options, bool reads_weights) {
  const std::string &model = options.model_name_or_path, &adapter = options.adapter_name_or_path;
  if (reads_weights)
    ModelFolder::open(model);
  else if (const std::string there = what_stands_at(model); there != "a folder")
    fail(model, ": expected a model folder, got ", there);
  if (!adapter.empty()) read_adapter_config(adapter);
}

void choose_templates(const ModelOptions& options, const Given& given, DataConfig& data) {
  const Record record = record_of(options);
  take_chat_template(record, data);
  if (given.contains("prompt_template")) {
    if (const std::string defect = template_defect(data.prompt_template); !defect.empty())
      fail(where_given(given, "prompt_template"), ": ", defect);
    return;
  }
  if (const auto saved = prompt_template_of(record)) {
    if (const std::string warning = use_saved_template(record.folder, *saved, data); !warning.empty())
      std::cerr << warning << "\n";
  } else if (!data.questions_are_turns) {
    std::cerr << "prompt template " << brief(data.prompt_template)
              << ", the default: none was given, and none lies beside the adapter or the model\n";
  }
}

std::optional<std::string> saved_prompt_template(const std::filesystem::path& folder) {
  return prompt_template_of(read_record(folder));
}

std::string use_saved_template(const std::filesystem::path& folder, const std::string& saved, DataConfig& data) {
  data.prompt_template = saved;
  data.template_is_saved = true;
  const std::string defect = template_defect(saved);
  return defect.empty() ? ""
                        : one_line(join("warning: ", (folder / kTemplateFile).string(), ": prompt_template: ", defect,
                                        "; it is used as it was trained with"));
}

bool is_trained_with_prompt_template(const ModelOptions& options) {
  const Record record = record_of(options);
  return record.said.contains("prompt_template") && !record.has_chat();
}

void choose_chat_template(const ModelOptions& options, DataConfig& data,
                          const std::vector<std::filesystem::path>& folders) {
  for (const std::filesystem::path& folder : folders) try {
      if (const Record record = read_record(folder); record.has_chat()) return take_chat_template(record, data);
    } catch (const UserError&) {  // a damaged checkpoint, which the run passes over
    }
  take_chat_template(record_of(options), data);
}

void choose_date(const std::filesystem::path& model, DataConfig& data,
                 const std::vector<std::filesystem::path>& folders) {
  if (!data.template_date.empty()) return;
  try {
    if (!ChatTemplate::open(model, data).uses_date()) return;
  } catch (const UserError&) {  // told where a conversation needs it
    return;
  }
  std::vector<std::filesystem::path> all = folders;
  all.emplace_back(data.chat_record);
  for (const std::filesystem::path& folder : all) try {
      const Record record = read_record(folder);
      if (!record.said.contains("template_date")) continue;
      data.template_date = record.said.at("template_date").get<std::string>();
      return;
    } catch (const UserError&) {  // a damaged checkpoint, which the run passes over
    }
  data.template_date = today();
}

// Whether a file can be written there, told before hours of work.
void check_writable(const char* flag, const std::filesystem::path& path) {
  if (path.empty()) return;
  const auto folder = path.has_parent_path() ? path.parent_path() : ".";
  if (const std::string there = what_stands_at(folder); there != "a folder")
    fail(flag, ": ", folder.string(), ": expected a folder, got ", there);
  if (const std::string there = what_stands_at(path); there != "a file" && there != "nothing")
    fail(flag, ": ", path.string(), ": expected a file name, got ", there);
}

void check_data(const DataFiles& files, const DataConfig& config, const Given& given) {
  if (const std::string defect = template_defect(config.prompt_template); !defect.empty() && !config.template_is_saved)
    fail(where_given(given, "prompt_template"), ": ", defect);
  RowReader(config.columns, /*vocab_size=*/1);  // refuses columns that no layout has
  for (const std::string& path : files.paths) {
    const auto file = Mapping::open(path);
    const std::filesystem::path cache = Dataset::cache_file(path, config);
    if (cache.empty() || what_stands_at(cache) != "a file") RowFile::open(file, path, config.skip_bad_rows);
  }
}

}  // namespace rankfold
