// A look at a sentencepiece model before sentencepiece sees it: what Debian's 0.1.97 reads or writes out of bounds for
// (long pieces, nested ones, broken or circular normaliser tables), and what takes it more than a second or so.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace rankfold {

// Gives how many bytes the normaliser makes of one at most. Throws UserError that begins with `name`.
size_t check_tokenizer_model(std::string_view bytes, const std::string& name);

}  // namespace rankfold
