// Decides which base a merge starts from, and the format of its result.
#pragma once

#include "adapter/merge_base.h"
#include "quant/base_storage.h"
#include "quant/quantized_folder.h"
#include "rankfold/adapter.h"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace rankfold {

struct MergeForm {
  BasePlace base;           // that the update is added to
  bool is_decoded = false;  // the base is quantised and is decoded first
  // The base in its other form, where it is available: for a decoded base the original, for an original base the one
  // that the adapter was trained on.
  std::optional<BasePlace> other;
  std::optional<BaseStorage> result;  // of the result's linear layers; nullopt: dense
  std::vector<std::string> notes;

  // The base that the adapter was trained on, as far as that is known.
  const BasePlace& trained() const { return is_decoded || !other ? base : *other; }
};

// Throws UserError if options and folders contradict each other, or if `adapter` is empty and nothing else is asked
// for.
MergeForm merge_form(const std::filesystem::path& model, const std::filesystem::path& adapter,
                     const MergeOptions& options);

// What the settings file beside an adapter, and base_model_name_or_path in its adapter_config.json, say of the base that
// it was trained on.
struct TrainedBase {
  bool is_known = false;           // false: neither says whether it was quantised
  std::optional<BasePlace> place;  // if it was
  std::string format;              // then: format_of()
};
// `model` is the folder that is used now. What cannot be read is told in `notes`.
TrainedBase trained_base(const std::filesystem::path& model, const std::filesystem::path& adapter,
                         std::vector<std::string>& notes);
std::string text_of(const BasePlace& quantized);  // "nf4, nested scales", or the name of a quantised folder
// The same words for a base that was quantised while it was loaded and for a folder of the same format, whether or not
// lm_head is quantised.
std::string format_of(const BaseStorage& storage);
std::string format_of(const QuantizedFolder& folder);

// The settings of quantisation among those of a merge.
LoadConfig load_config(const MergeOptions& options);
// The LoadConfig with which CausalLM opens this base.
LoadConfig load_config(const BasePlace& place);

}  // namespace rankfold
