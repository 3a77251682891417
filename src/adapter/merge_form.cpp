#include "adapter/merge_form.h"

#include "core/check.h"
#include "core/config.h"
#include "core/file.h"
#include "core/json.h"

#include "io/model_folder.h"
#include "quant/quantized_folder.h"

#include <nlohmann/json.hpp>

namespace rankfold {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr const char* kRunSettings = "rankfold_config.json";  // beside an adapter that lora-train has written

std::optional<BaseStorage> wanted_storage(const MergeOptions& options) {
  return storage_of(LoadConfig{.quantization_bit = options.quantization_bit,
                               .quantization_type = options.quantization_type,
                               .double_quantization = options.double_quantization,
                               .load_in_4bit = options.load_in_4bit,
                               .load_in_8bit = options.load_in_8bit});
}

// The quantised folder that adapter_config.json names as the base, where it is here and is another than `model`. What is
// wrong with it is no reason not to merge into a folder that is right.
std::optional<BasePlace> quantized_base(const fs::path& model, const fs::path& adapter, MergeForm& form) {
  const fs::path source = adapter / "adapter_config.json";
  if (what_stands_at(source) != "a file") return std::nullopt;
  const json config = read_json(source);
  const json name = config.is_object() ? config.value("base_model_name_or_path", json()) : json();
  if (!name.is_string()) return std::nullopt;
  const fs::path folder = name.get<std::string>();
  std::error_code error;
  if (what_stands_at(folder / "config.json") != "a file" || fs::equivalent(folder, model, error)) return std::nullopt;
  try {
    if (QuantizedFolder::open(ModelFolder::open(folder))) {
      const MergeBase readable({folder});
      return BasePlace{folder};
    }
  } catch (const UserError& unreadable) {
    form.notes.push_back(join(source.string(), ": base_model_name_or_path: the folder is not compared with ",
                              model.string(), ": ", unreadable.what()));
  }
  return std::nullopt;
}

// What the adapter was trained on, where that was in fewer bits.
std::optional<BasePlace> trained_place(const fs::path& model, const fs::path& adapter, MergeForm& form) {
  if (adapter.empty()) return std::nullopt;
  try {
    if (const auto storage = trained_storage(adapter)) return BasePlace{model, storage};
  } catch (const UserError& unreadable) {
    form.notes.push_back(join("not known what ", adapter.string(), " was trained on: ", unreadable.what()));
  }
  return quantized_base(model, adapter, form);
}

void refuse_second_quantization(const fs::path& model, const QuantizedFolder& quantized, const MergeOptions& options) {
  if (wanted_storage(options))
    fail("quantization_bit: expected none, as ", model.string(), " is in fewer bits already (", quantized.text(),
         "), got ", text_of(*wanted_storage(options)),
         ": give the 16-bit folder that it was made from; quantising twice adds a second error");
  if (meaning_of(kMergeIntos, options.merge_into) == MergeInto::kOriginal)
    fail("merge_into: expected dequantized, as ", model.string(), " is in fewer bits (", quantized.text(),
         "), got original: give the 16-bit folder that it was made from as model_name_or_path");
}

std::string trained_on(const fs::path& adapter, const BasePlace& place) {
  return join(adapter.string(), " was trained on ", place.storage ? text_of(*place.storage) : place.folder.string());
}

constexpr const char* kNoAdapter = "adapter_name_or_path: expected a folder, got nothing: ";

}  // namespace

std::optional<BaseStorage> trained_storage(const fs::path& adapter) {
  const fs::path settings = adapter / kRunSettings;
  if (what_stands_at(settings) != "a file") return std::nullopt;
  LoadConfig load;
  read_fields(read_ordered_json(settings), settings.string(), load, /*unknown_is_error=*/false);
  return storage_of(load);
}

MergeForm merge_form(const fs::path& model, const fs::path& adapter, const MergeOptions& options) {
  MergeForm form;
  const auto into = meaning_of(kMergeIntos, options.merge_into);
  const auto quantized = QuantizedFolder::open(ModelFolder::open(model));
  if (quantized) {
    refuse_second_quantization(model, *quantized, options);
    if (adapter.empty() && !into)
      fail(kNoAdapter, "for ", model.string(), " alone in 16 bits write --merge_into dequantized");
    form.base = {model};
    form.is_decoded = true;
    form.notes.push_back(join("base: ", model.string(), ", ", quantized->text(), ", decoded"));
    return form;
  }
  const auto wanted = wanted_storage(options);
  const auto trained = trained_place(model, adapter, form);
  if (into == MergeInto::kDequantized) {
    if (!wanted && trained && !trained->storage)
      fail("merge_into: expected original, as ", model.string(),
           " is not quantised, got dequantized: ", adapter.string(), " was trained on ", trained->folder.string(),
           ": give that as model_name_or_path");
    if (!wanted && !trained)
      fail("merge_into: expected original, as ", model.string(),
           " is not quantised, got dequantized: say by quantization_bit (and quantization_type, double_quantization) "
           "what the adapter was trained on");
    form.base = {model, wanted ? wanted : trained->storage};
    form.is_decoded = true;
    form.other = BasePlace{model};
    form.notes.push_back(join("base: ", model.string(), " in ", text_of(*form.base.storage), ", decoded"));
    if (trained && trained->storage != form.base.storage) form.notes.push_back(trained_on(adapter, *trained));
    return form;
  }
  if (adapter.empty() && !wanted)
    fail(kNoAdapter, "for ", model.string(), " alone in fewer bits write --quantization_bit 4 or 8");
  if (wanted && wanted->type == Quantization::fp8)
    fail("quantization_type: expected nf4, fp4 or int8 for a folder, got \"fp8\": bitsandbytes' format has none");
  form.base = {model};
  form.result = wanted;
  if (!wanted) form.other = trained;
  if (trained) form.notes.push_back(join("base: ", model.string(), ", the original weights"));
  if (trained) form.notes.push_back(trained_on(adapter, *trained));
  return form;
}

LoadConfig load_config(const BasePlace& place) {
  LoadConfig config;
  if (!place.storage) return config;
  const Quantization type = place.storage->type;
  config.quantization_bit = type == Quantization::nf4 || type == Quantization::fp4 ? 4 : 8;
  config.quantization_type = word_for(kQuantizationTypes, type);
  config.double_quantization = place.storage->is_nested;
  return config;
}

}  // namespace rankfold
