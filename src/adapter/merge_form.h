// Decides which base a merge starts from, and the format of its result.
#pragma once

#include "adapter/merge_base.h"
#include "quant/base_storage.h"
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

// How the base was quantised in the run that trained this adapter, by the settings file beside the adapter; nullopt: it
// was not, or there is no such file. Throws UserError for settings that cannot be read.
std::optional<BaseStorage> trained_storage(const std::filesystem::path& adapter);

// The LoadConfig with which CausalLM opens this base.
LoadConfig load_config(const BasePlace& place);

}  // namespace rankfold
