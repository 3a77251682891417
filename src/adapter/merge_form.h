// What a merge makes of which base, as its options and the two folders say.
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
  bool is_decoded = false;  // base: from fewer bits
  // The base in its other form, where it is at hand: the original beside a decoded one, or beside an original one what the
  // adapter was trained on.
  std::optional<BasePlace> other;
  std::optional<BaseStorage> result;  // of the result's linear layers; nullopt: dense
  std::vector<std::string> notes;

  // What the adapter was trained on, as far as that is known.
  const BasePlace& trained() const { return is_decoded || !other ? base : *other; }
};

// UserError where options and folders contradict each other, or `adapter` is empty and nothing else is asked for.
MergeForm merge_form(const std::filesystem::path& model, const std::filesystem::path& adapter,
                     const MergeOptions& options);

// What the base was quantised to in the run that made this adapter, as its settings beside it say; nullopt: it was not, or
// nothing says so. UserError for settings that cannot be read.
std::optional<BaseStorage> trained_storage(const std::filesystem::path& adapter);

// How CausalLM opens such a base.
LoadConfig load_config(const BasePlace& place);

}  // namespace rankfold
