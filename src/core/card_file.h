// README.md of a folder that a run writes. Its last line says that Rankfold wrote it and holds a checksum of the lines
// before, so that a README.md of a person's, or one of ours that a person has changed, is known and kept.
#pragma once

#include <filesystem>
#include <string>

namespace rankfold {

inline constexpr const char* kCard = "README.md";
inline constexpr const char* kCardBeside = "MODEL_CARD.md";  // where a person's README.md has that name

std::string sign_card(const std::string& text);  // with the last line
bool is_our_card(const std::string& text);       // whole and unchanged, or written by an earlier version

// `staging` holds a card and what else is to come into `target`. Where a person's README.md stands in `target` it is
// taken into `staging`, and the card becomes MODEL_CARD.md, or goes where that is a person's too. What cannot be read, or
// is no file, is a person's: nothing of its name comes into `target`. True where something was kept.
bool keep_own_readme(const std::filesystem::path& staging, const std::filesystem::path& target);

std::string shell_word(const std::string& text);  // as a command line takes it: quoted where it must be

}  // namespace rankfold
