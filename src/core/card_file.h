// The model card, README.md, of a folder that a run writes. Its last line says that Rankfold wrote it, and contains a
// checksum of the lines before. So a README.md that a person wrote or changed is recognised and kept.
#pragma once

#include <filesystem>
#include <string>

namespace rankfold {

inline constexpr const char* kCard = "README.md";
inline constexpr const char* kCardBeside = "MODEL_CARD.md";  // used where a person's README.md exists

std::string sign_card(const std::string& text);  // appends the last line
bool is_our_card(const std::string& text);       // unchanged since we wrote it, or written by an earlier version

// Keeps a person's README.md. `staging` contains a card and other files to move into `target`. If a README.md of a
// person exists in `target`, it is copied to `staging` and the card is renamed to MODEL_CARD.md. If that file is a
// person's too, the card is dropped. What cannot be read, or is not a file, counts as a person's and is not replaced.
// Returns true where something was kept.
bool keep_own_readme(const std::filesystem::path& staging, const std::filesystem::path& target);

std::string shell_word(const std::string& text);  // quoted for a shell where necessary

}  // namespace rankfold
