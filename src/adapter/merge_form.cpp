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

std::optional<BaseStorage> wanted_storage(const MergeOptions& options) { return storage_of(load_config(options)); }

// The quantised folder that adapter_config.json names as the base, where it is here and is another than `model`. What is
// wrong with it is no reason not to use a folder that is right.
void find_quantized_base(const fs::path& model, const fs::path& adapter, TrainedBase& trained,
                         std::vector<std::string>& notes) {
  const fs::path source = adapter / "adapter_config.json";
  if (what_stands_at(source) != "a file") return;
  const json config = read_json(source);
  const json name = config.is_object() ? config.value("base_model_name_or_path", json()) : json();
  if (!name.is_string()) return;
  const fs::path folder = name.get<std::string>();
  std::error_code error;
  if (what_stands_at(folder / "config.json") != "a file" || fs::equivalent(folder, model, error)) return;
  try {
    if (const auto quantized = QuantizedFolder::open(ModelFolder::open(folder))) {
      const MergeBase readable({folder});
      trained = {.is_known = true, .place = BasePlace{folder}, .format = format_of(*quantized)};
    }
  } catch (const UserError& unreadable) {
    notes.push_back(join(source.string(), ": base_model_name_or_path: the folder is not compared with ", model.string(),
                         ": ", unreadable.what()));
  }
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

std::string note_on(const fs::path& adapter, const BasePlace& trained) {
  return join(adapter.string(), " was trained on ", text_of(trained));
}

constexpr const char* kNoAdapter = "adapter_name_or_path: expected a folder, got nothing: ";

}  // namespace

TrainedBase trained_base(const fs::path& model, const fs::path& adapter, std::vector<std::string>& notes) {
  TrainedBase trained;
  if (adapter.empty()) return trained;
  const fs::path settings = adapter / kRunSettings;
  if (what_stands_at(settings) == "a file") try {
      LoadConfig load;
      read_fields(read_ordered_json(settings), settings.string(), load, /*unknown_is_error=*/false);
      trained.is_known = true;
      if (const auto storage = storage_of(load)) {
        trained.place = BasePlace{model, storage};
        trained.format = format_of(*storage);
        return trained;
      }
    } catch (const UserError& unreadable) {
      notes.push_back(join("not known what ", adapter.string(), " was trained on: ", unreadable.what()));
    }
  find_quantized_base(model, adapter, trained, notes);
  return trained;
}

std::string text_of(const BasePlace& quantized) {
  return quantized.storage ? text_of(*quantized.storage) : quantized.folder.string();
}

std::string format_of(const BaseStorage& storage) {
  return "bitsandbytes " + text_of(BaseStorage{.type = storage.type, .is_nested = storage.is_nested});
}
std::string format_of(const QuantizedFolder& folder) { return folder.text(); }

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
    const TrainedBase trained = trained_base(model, adapter, form.notes);
    if (trained.place && trained.format != format_of(*quantized))
      form.notes.push_back(note_on(adapter, *trained.place));
    return form;
  }
  const auto wanted = wanted_storage(options);
  const auto trained = trained_base(model, adapter, form.notes).place;
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
    if (trained && trained->storage != form.base.storage) form.notes.push_back(note_on(adapter, *trained));
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
  if (trained) form.notes.push_back(note_on(adapter, *trained));
  return form;
}

LoadConfig load_config(const MergeOptions& options) {
  return {.quantization_bit = options.quantization_bit,
          .quantization_type = options.quantization_type,
          .double_quantization = options.double_quantization,
          .quantize_lm_head = options.quantize_lm_head,
          .load_in_4bit = options.load_in_4bit,
          .load_in_8bit = options.load_in_8bit};
}

LoadConfig load_config(const BasePlace& place) {
  LoadConfig config;
  if (!place.storage) return config;
  config.quantization_bit = bits_of(place.storage->type);
  config.quantization_type = word_for(kQuantizationTypes, place.storage->type);
  config.double_quantization = place.storage->is_nested;
  config.quantize_lm_head = place.storage->has_head;
  return config;
}

}  // namespace rankfold
