// Writes and reads the files of an adapter, and checks that they belong to one save.
#pragma once

#include "adapter/peft_format.h"
#include "model/model.h"
#include "rankfold/adapter.h"

#include <filesystem>

namespace rankfold {

// Writes an adapter in PEFT's format, or the whole model in the base's stored dtype, into an existing folder. As in
// PEFT, an adapter's file also has the base's weights of an embedding or head that is a target, as the folder stores
// them; not where that is in fewer bits. `card`: the text of README.md; empty: a short one, or for a whole model that of
// the base.
void write_adapter_files(const Adapter& adapter, const Model& model, const std::filesystem::path& folder,
                         const std::string& card = {});

// Whether two tensors have one shape and the same values, in whatever dtypes.
bool same_values(const at::Tensor& x, const at::Tensor& y);

// Throws UserError if the trained values do not fit the base in the model's folder, because an adapter was merged into
// the weights in memory.
void check_is_of_folder(const Adapter& adapter, const Model& model);

// Throws UserError if one of these modules is a head into which no adapter can be merged: one that is tied to the
// embedding, or has normalised rows.
void refuse_head(const CausalLM& model, const std::vector<std::string>& modules);

// Reads an adapter. Throws UserError if an interrupted save of lora-train or save() left files of two saves.
AdapterFolder read_checked_adapter(const std::filesystem::path& folder);

}  // namespace rankfold
