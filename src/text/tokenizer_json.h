// Reads Hugging Face's tokenizer.json with BPE, byte-level or with byte fallback, as decoder models have it.
#pragma once

#include "text/vocabulary.h"

#include <filesystem>
#include <memory>
#include <vector>

namespace rankfold {

// Returns a vocabulary with the same ids as the Python package tokenizers. Ignores saved truncation and padding. The
// file is untrusted. Throws UserError for every unknown type and setting, and for a file, list or piece beyond the size
// limits. The message names the file, the key, what was expected and what was found.
// `more`: tokens that other files of the folder define, by id. Those that the file lacks are added, as transformers
// does.
std::shared_ptr<const Vocabulary> read_tokenizer_json(const std::filesystem::path& path,
                                                      const std::vector<AddedToken>& more = {});

}  // namespace rankfold
