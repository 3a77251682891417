// Whose README.md a folder has, and that a person's is never lost.
#include "core/card_file.h"

#include "support/temp_folder.h"

#include <gtest/gtest.h>

#include <filesystem>

namespace rankfold {
namespace {

using testing::read_bytes;
using testing::TempFolder;

TEST(CardFile, KnowsItsOwnText) {
  const std::string card = sign_card("---\nlibrary_name: peft\n---\n# A card\n");
  EXPECT_TRUE(card.starts_with("---\n"));
  EXPECT_TRUE(is_our_card(card));
  std::string changed = card;
  changed[card.find('A')] = 'B';
  EXPECT_FALSE(is_our_card(changed));
  EXPECT_FALSE(is_our_card(card + "\nA line of mine.\n"));
  EXPECT_FALSE(is_our_card("# My project\n"));
  EXPECT_TRUE(
      is_our_card("---\n---\n\n# LoRA adapter\n\nRank 4, alpha 8, for base.\nTrained with Rankfold; loads with "
                  "`peft.PeftModel.from_pretrained(base, folder)`.\n"));
}

TEST(CardFile, APersonsFileStaysAndTheCardIsBesideIt) {
  const TempFolder folder;
  const std::string old = sign_card("old\n"), fresh = sign_card("new\n");
  const auto stage = [&] {
    std::filesystem::remove_all(folder / "staging");
    folder.write("staging/README.md", fresh);
    return keep_own_readme(folder / "staging", folder / "target");
  };
  const auto staged = [&](const std::string& name) { return read_bytes(folder / ("staging/" + name)); };

  EXPECT_FALSE(stage()) << "no README.md stands there";
  folder.write("target/README.md", old);
  EXPECT_FALSE(stage()) << "one of ours";
  EXPECT_EQ(staged("README.md"), fresh);
  EXPECT_FALSE(std::filesystem::exists(folder / "staging/MODEL_CARD.md"));

  folder.write("target/README.md", "mine\n");
  EXPECT_TRUE(stage());
  EXPECT_EQ(staged("README.md"), "mine\n");
  EXPECT_EQ(staged("MODEL_CARD.md"), fresh);

  folder.write("target/MODEL_CARD.md", old);
  EXPECT_TRUE(stage());
  EXPECT_EQ(staged("MODEL_CARD.md"), fresh);

  folder.write("target/MODEL_CARD.md", "mine too\n");
  EXPECT_TRUE(stage());
  EXPECT_EQ(staged("MODEL_CARD.md"), "mine too\n");

  std::filesystem::remove(folder / "target/README.md");
  folder.write("target/README.md/file", "a folder has the name");
  std::filesystem::remove(folder / "target/MODEL_CARD.md");
  EXPECT_TRUE(stage());
  EXPECT_FALSE(std::filesystem::exists(folder / "staging/README.md"));
  EXPECT_EQ(staged("MODEL_CARD.md"), fresh);
}

TEST(CardFile, WordsOfAShell) {
  EXPECT_EQ(shell_word("a/b-c.json"), "a/b-c.json");
  EXPECT_EQ(shell_word(""), "''");
  EXPECT_EQ(shell_word("two words"), "'two words'");
  EXPECT_EQ(shell_word("it's"), "'it'\\''s'");
  EXPECT_EQ(shell_word("$(rm x)"), "'$(rm x)'");
  EXPECT_EQ(shell_word("医学.json"), "'医学.json'");
}

}  // namespace
}  // namespace rankfold
