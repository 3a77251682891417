// Characters that hardly belong into a text, and text that was read in the wrong encoding.
#pragma once

#include <cstddef>
#include <string_view>

namespace rankfold {

struct CharacterFaults {
  size_t control = 0;      // C0 but tab and line ends, DEL, C1, and code points that are no characters
  size_t replacement = 0;  // U+FFFD: bytes that a converter could not read
  size_t private_use = 0;  // characters without a meaning of their own, such as icons of a font
  bool is_mojibake = false;

  void add(const CharacterFaults& more);
};

// `text`: UTF-8 that is known to be sound.
CharacterFaults find_character_faults(std::string_view text);

// Whether the text looks like one that was written in one encoding and read in another: UTF-8 read as Windows-1252 or
// Latin-1 ("ä¸\u00ADæ–‡"), UTF-8 read as GBK ("涓\uE15E枃"), GBK read as Latin-1 ("ÖÐÎÄ"), or what is left of such a text
// when it was converted again ("锟斤拷").
bool is_mojibake(std::string_view text);

}  // namespace rankfold
