// The vocabulary of a tokenizer.model, by sentencepiece.
#pragma once

#include "text/vocabulary.h"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

namespace rankfold {

struct TokenizerModel {
  std::shared_ptr<const Vocabulary> vocabulary;
  int32_t bos = -1, eos = -1;  // the model's own; -1: it has none
};

// `added`: tokens that other files of the folder name beyond the model's pieces, which a text never becomes with
// Spelling::kUserText. Throws UserError for a file that is no sentencepiece model or that sentencepiece cannot be
// trusted with (tokenizer_model.h).
TokenizerModel read_tokenizer_model(const std::filesystem::path& path, const std::vector<AddedToken>& added);

}  // namespace rankfold
