// A look at a sentencepiece model before sentencepiece sees it: Debian's 0.1.97 overflows its stack on a very
// long piece and reads out of bounds through a broken normaliser table.
#pragma once

#include <string>
#include <string_view>

namespace rankfold {

// Throws UserError that begins with `name`.
void check_tokenizer_model(std::string_view bytes, const std::string& name);

}  // namespace rankfold
