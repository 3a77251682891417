// A template's source as tokens. White space is already gone where the template's marks (`{%-`) or the settings that
// transformers renders with (trim_blocks, lstrip_blocks) take it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold::jinja {

enum class TokenKind {
  kData,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd
};

struct Token {
  TokenKind kind;
  size_t line;
  std::string text;  // of a string: its characters, escapes done
};

// The last token is kEnd. Throws UserError "name:line: ...".
std::vector<Token> tokenize(std::string source, const std::string& name);

// As an error shows it.
std::string describe(const Token& token);

}  // namespace rankfold::jinja
