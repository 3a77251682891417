// Unicode normalisation form C, by the tables of the Python package tokenizers.
#pragma once

#include "text/aligned_text.h"

namespace rankfold {

// Sets `changed` to the piece in NFC. A composed character has the range of all characters that it was composed of.
// Returns false where the piece is already in NFC; `changed` is then undefined.
bool to_nfc(const Piece& piece, AlignedText& changed);

}  // namespace rankfold
