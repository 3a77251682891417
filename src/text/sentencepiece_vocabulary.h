// Reads the vocabulary of a tokenizer.model, with sentencepiece.
#pragma once

#include "text/vocabulary.h"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

namespace rankfold {

struct TokenizerModel {
  std::shared_ptr<const Vocabulary> vocabulary;
  int32_t bos = -1, eos = -1;  // the model's own; -1: none
};

// `added`: tokens that other files of the folder define beyond the model's pieces. With Spelling::kUserText, no text is
// encoded as one of them. Throws UserError for another kind of file, or one that is unsafe for sentencepiece
// (tokenizer_model.h).
TokenizerModel read_tokenizer_model(const std::filesystem::path& path, const std::vector<AddedToken>& added);

}  // namespace rankfold
