// EXPECT_TRUE(contains(line, "part")) shows both when it fails.
#pragma once

#include <gtest/gtest.h>

#include <string>

namespace rankfold::testing {

inline ::testing::AssertionResult contains(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "'" << part << "' is not in '" << text << "'";
}

}  // namespace rankfold::testing
