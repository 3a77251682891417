// The files of an adapter, and whether those that are there are of one save.
#pragma once

#include "adapter/peft_format.h"
#include "model/model.h"
#include "rankfold/adapter.h"

#include <filesystem>

namespace rankfold {

// Into a folder that is there: an adapter as PEFT writes it, or the whole model in the base's stored dtype. As PEFT does,
// an adapter's file gets the base's weights of an embedding or a head that is a target. `card`: the text of README.md;
// empty: a short one, or of a whole model the base's.
void write_adapter_files(const Adapter& adapter, const Model& model, const std::filesystem::path& folder,
                         const std::string& card = {});

// UserError where what trains could not be saved for the model's folder: an adapter was merged into its weights in memory.
void check_is_of_folder(const Adapter& adapter, const Model& model);

// UserError where one of these modules is a head that no adapter can be merged into: tied to the embedding, or with
// normalised rows.
void refuse_head(const CausalLM& model, const std::vector<std::string>& modules);

// UserError where lora-train or save() has left the folder between two saves.
AdapterFolder read_checked_adapter(const std::filesystem::path& folder);

}  // namespace rankfold
