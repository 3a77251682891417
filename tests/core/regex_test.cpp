// Names of modules by expressions, a stranger's among them.
#include "core/regex.h"
#include "rankfold/error.h"
#include "support/contains.h"
#include "support/stopwatch.h"
#include "support/temp_folder.h"

#include <gtest/gtest.h>

#include <string>

namespace rankfold {
namespace {

using testing::contains;
using testing::error_of;
using testing::expect_error;

bool matches(const std::string& pattern, const std::string& name) {
  return Regex("target_modules", pattern).match(name);
}

TEST(Regex, IsPythons) {
  const std::string name = "model.layers.31.self_attn.q_proj";
  for (const char* pattern : {R"(.*\.(q|k|v)_proj)", R"(model\.layers\.\d{1,2}\..*)", R"((?!lm_head).*)",
                              R"((?i:MODEL)\..*q_proj)", R"((?P<stem>.*)\.(?P<part>q|o)_proj)", R"(.*\.(?:3[01])\..*$)",
                              R"(^.*q_proj)", R"(nothing|.*q|.*q_proj)", R"((.*)*)", R"([^\W\d]+?\b.*[]q-]_\w{4,})"})
    EXPECT_TRUE(matches(pattern, name)) << pattern;
  for (const char* pattern : {"q_proj", "", R"(.*\.layers)", R"(.*(?=q_proj))", R"((?!model).*)", "nothing|q_proj"})
    EXPECT_FALSE(matches(pattern, name)) << pattern;
  EXPECT_TRUE(matches(".*", "a\rb"));
  EXPECT_FALSE(matches(".*", "a\nb"));

  EXPECT_TRUE(Regex("rank_pattern", "q_proj|k").match_after_dot(name));
  EXPECT_TRUE(Regex("rank_pattern", ".*").match_after_dot(name));
  EXPECT_TRUE(Regex("rank_pattern", R"(31\..*)").match_after_dot(name));
  EXPECT_FALSE(Regex("rank_pattern", "_proj").match_after_dot(name));
  EXPECT_FALSE(Regex("rank_pattern", "^q_proj").match_after_dot(name));
}

// What PCRE2 alone knows, or reads in another way, would be found by us and not by PEFT.
TEST(Regex, RefusesWhatPythonReadsOtherwise) {
  for (const char* pattern :
       {R"((a)\1)", R"(\07)",   R"(a++)",         R"(a{,3})",   R"(a{b)",     R"((?i)a)",   R"((?<=a|bc)d)",
        R"((?>a))", R"((?R)?)", R"((a)(?1))",     R"((?<x>a))", R"((?#a))",   R"((*UTF)a)", R"(\Qa\E)",
        R"(\Z)",    R"(\h)",    R"([[:alpha:]])", R"([\h])",    R"((?|a|b))", "[a"}) {
    const std::string error = error_of<UserError>([&] { matches(pattern, "a"); });
    EXPECT_TRUE(contains(error, "is not a regular expression that is supported (byte ")) << pattern << ": " << error;
  }
  expect_error<UserError>(
      [] { matches(R"(layers\.(\d)\1)", ""); },
      R"(target_modules: "layers\\.(\\d)\\1" is not a regular expression that is supported (byte 12: "\\1"))");
}

// Among them what takes std::regex for ever, or beyond the largest integer.
TEST(Regex, CostsLittle) {
  const auto nested = [](const char* open, const char* close) {
    std::string text = "a";
    for (int i = 0; i < 140; ++i) text = open + text + close;
    return text;
  };
  const std::string name = "base_model.model.model.layers.31.self_attn.q_proj";
  for (const std::string& pattern :
       {nested("(?=.*", ")"), nested("(", "*)*"), std::string("(.*)*x"), std::string(1, '\\').append(60, '7'),
        "a{" + std::string(60, '7') + "}", std::string("((a{999}){999}){999}"), std::string("(((.?){99}){99}){99}"),
        std::string("(.*.*.*.*.*.*.*.*)[xz]"), std::string(19'000, '('), std::string(19'000, '['),
        std::string(19'000, '|')}) {
    const testing::Stopwatch watch;
    try {
      EXPECT_FALSE(matches(pattern, name)) << pattern;
    } catch (const UserError& error) {
      EXPECT_TRUE(contains(error.what(), "target_modules: ")) << error.what();
      EXPECT_LT(std::string(error.what()).size(), 400u);
    }
    EXPECT_LT(watch.seconds(), 1) << pattern.substr(0, 80);
  }
  expect_error<UserError>(
      [&] { matches("(.*.*.*.*.*.*.*.*)[xz]", name); },
      R"(target_modules: the regular expression "(.*.*.*.*.*.*.*.*)[xz]" cannot be matched with ')" + name +
          "': match limit exceeded");
}

TEST(Regex, NamesAreNoLongerThanAModules) {
  std::string name = "a";
  for (int i = 0; i < 100'000; ++i) name += ".a";
  expect_error<UserError>([&] { Regex("rank_pattern", "(b)").match_after_dot(name); },
                          "rank_pattern: expected names of at most 1000 bytes for a regular expression, got 'a.a");
}

}  // namespace
}  // namespace rankfold
