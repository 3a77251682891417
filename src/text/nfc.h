// Unicode's normal form C, by the tables of PyPI's tokenizers.
#pragma once

#include "text/aligned_text.h"

namespace rankfold {

// Replaces what `changed` holds by the piece in NFC, in which all that was composed anew has the range of all that it
// was composed of. False where the piece is in NFC already; what `changed` holds is then of no use.
bool to_nfc(const Piece& piece, AlignedText& changed);

}  // namespace rankfold
