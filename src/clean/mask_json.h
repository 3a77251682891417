// Personal data in the texts of JSON, byte for byte as it stands but for what is masked.
#pragma once

#include "clean/personal_data.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

// Where in a row something was found. Never the text itself.
struct PersonalHit {
  PersonalKind kind;
  std::string field;     // "messages[0].content"; of JSON in a text "tools:[0].name"; of a key "question (key)"
  size_t character = 0;  // in the field's text, from 0; of JSON in a text, in that of the field inside
  bool is_key = false;   // a key is never changed, as it is what the column is called
};

struct MaskedJson {
  std::string text;  // empty: nothing has changed
  std::vector<PersonalHit> hits;
};

// Looks through all texts of sound JSON, in columns that train and in others, and through whole numbers. What is found
// becomes a placeholder; a number becomes a text. A text that holds JSON itself, as arguments of tools do, stays JSON.
// `json` may also be what is left when a part is cut out of JSON between two tokens.
//
// With a `kinds` that is empty nothing is looked for.
MaskedJson mask_json(std::string_view json, PersonalKinds kinds);

}  // namespace rankfold
