// The files of an adapter, and whether those that are there are of one save.
#pragma once

#include "adapter/peft_format.h"
#include "model/decoder.h"
#include "rankfold/adapter.h"

#include <filesystem>

namespace rankfold {

// Into a folder that is there: an adapter as PEFT writes it, or the whole model in the base's stored dtype.
void write_adapter_files(const Adapter& adapter, const Decoder& decoder, const std::filesystem::path& folder);

// UserError where lora-train or save() has left the folder between two saves.
AdapterFolder read_checked_adapter(const std::filesystem::path& folder);

}  // namespace rankfold
