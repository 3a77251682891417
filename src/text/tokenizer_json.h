// Hugging Face's tokenizer.json: BPE, byte-level or with byte fallback, as the families of decoder models have it.
#pragma once

#include "text/vocabulary.h"

#include <filesystem>
#include <memory>
#include <vector>

namespace rankfold {

// Gives the ids that PyPI's tokenizers gives. Throws UserError, which names the file, the key, what was expected and
// what stands there, for every type and setting that it does not know, and for a file, a list or a piece beyond any
// real one. Truncation and padding, where saved, are passed over. The file is a stranger's.
// `more`: tokens that other files of the folder name, by their ids; those that the file lacks are added, as
// transformers does.
std::shared_ptr<const Vocabulary> read_tokenizer_json(const std::filesystem::path& path,
                                                      const std::vector<AddedToken>& more = {});

}  // namespace rankfold
