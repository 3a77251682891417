// Text that comes from a stranger, on a terminal.
#include "core/utf8.h"

#include "core/check.h"

#include <gtest/gtest.h>

namespace rankfold {
namespace {

TEST(OneLine, ShowsOrdersByNumber) {
  EXPECT_EQ(one_line("a\tb\n\x1b[2J\x7f"), "a\\x09b\\x0a\\x1b[2J\\x7f");
  EXPECT_EQ(one_line("C1 \xC2\x9B, right to left \xE2\x80\xAE, isolates \xE2\x81\xA6, lines \xE2\x80\xA8"),
            "C1 \\xc2\\x9b, right to left \\xe2\\x80\\xae, isolates \\xe2\\x81\\xa6, lines \\xe2\\x80\\xa8");
  EXPECT_EQ(one_line("\xFF\xC3"), "\\xff\\xc3");
  EXPECT_EQ(one_line("\xEF\xBB\xBFquestion a\xE2\x80\x8B b\xC2\xAD \xF3\xA0\x81\x81"),
            "\\xef\\xbb\\xbfquestion a\\xe2\\x80\\x8b b\\xc2\\xad \\xf3\\xa0\\x81\\x81");
  EXPECT_EQ(one_line("médecine 医学 💊"), "médecine 医学 💊");
}

TEST(OneLine, IsShort) {
  for (const std::string part : {"a", "\x01", "医", "\xFF", "\xC2\x9B"}) {
    std::string text = "begin: ";
    for (int i = 0; i < 100'000; ++i) text += part;
    const std::string line = one_line(text + ", end");
    EXPECT_LE(line.size(), 1000u);
    EXPECT_TRUE(line.starts_with("begin: ") && line.ends_with(", end"));
    EXPECT_TRUE(is_utf8(line));
    EXPECT_LE(one_line(line).size(), 1000u);
  }
}

TEST(Printable, KeepsLinesWhereAsked) {
  const auto blank = [](std::string_view) { return " "; };
  EXPECT_EQ(printable("a\nb\x1b[0m\xC2\x85", Shown::kProse, blank), "a\nb [0m ");
  EXPECT_EQ(printable("a\nb", Shown::kLine, blank), "a b");
  const std::string joined =
      "a\xE2\x80\x8D"
      "b";  // as in emoji of several parts
  EXPECT_EQ(printable(joined, Shown::kProse, blank), joined);
  EXPECT_EQ(printable(joined, Shown::kLine, blank), "a b");
}

}  // namespace
}  // namespace rankfold
