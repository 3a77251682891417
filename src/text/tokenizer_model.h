// Checks a sentencepiece model before sentencepiece reads it. Debian's sentencepiece 0.1.97 accesses memory out of
// bounds for some files (long pieces, nested ones, broken or circular normaliser tables). Others take it more than
// about a second.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace rankfold {

// Returns the largest number of bytes that the normaliser produces from one byte. Throws UserError that begins with
// `name`.
size_t check_tokenizer_model(std::string_view bytes, const std::string& name);

}  // namespace rankfold
