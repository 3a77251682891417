// Reads expressions and statements from tokens.
#pragma once

#include "text/jinja/lexer.h"
#include "text/jinja/syntax.h"

#include <initializer_list>
#include <string_view>

namespace rankfold::jinja {

class Parser {
 public:
  Parser(std::vector<Token> tokens, const std::string& name) : tokens_(std::move(tokens)), name_(name) {}

  Body parse_template() { return parse_body({}); }

 private:
  using Ends = std::vector<std::string_view>;
  using Kind = ExpressionKind;

  // Statements (parser.cpp)
  Body parse_body(const Ends& ends);
  Body parse_block(const Ends& ends);            // with the end of the tag before
  Body parse_whole_block(std::string_view end);  // and the tag after
  std::unique_ptr<Statement> parse_statement();
  void parse_if(Statement& statement);
  void parse_for(Statement& statement);
  void parse_set(Statement& statement);
  void parse_with(Statement& statement);
  void parse_macro(Statement& statement);
  void parse_call_block(Statement& statement);
  void parse_signature(Macro& macro);
  [[noreturn]] void fail_tag(const Token& tag, bool is_end) const;

  // Expressions (expression_parser.cpp)
  ExpressionPointer parse_target(bool with_namespace, std::string_view end = {});
  ExpressionPointer parse_name_target();
  ExpressionPointer parse_tuple(bool with_conditional = true, bool in_parentheses = false, std::string_view end = {});
  ExpressionPointer parse_expression(bool with_conditional = true);
  ExpressionPointer parse_or();
  ExpressionPointer parse_and();
  ExpressionPointer parse_not();
  ExpressionPointer parse_compare();
  ExpressionPointer parse_sum();
  ExpressionPointer parse_concatenation();
  ExpressionPointer parse_product();
  ExpressionPointer parse_power();
  ExpressionPointer parse_unary(bool with_filter = true);
  ExpressionPointer parse_primary();
  ExpressionPointer parse_postfix(ExpressionPointer value);
  ExpressionPointer parse_filters(ExpressionPointer value);  // and tests
  ExpressionPointer parse_filter(ExpressionPointer value);
  ExpressionPointer parse_test(ExpressionPointer value);
  ExpressionPointer parse_subscript(ExpressionPointer value);
  ExpressionPointer parse_dict();
  void parse_arguments(Expression& call);
  std::string parse_dotted_name();

  ExpressionPointer make(Kind kind, size_t line) const;
  ExpressionPointer make(Kind kind, size_t line, ExpressionPointer first, ExpressionPointer second = nullptr) const;
  ExpressionPointer make_from(Kind kind, ExpressionPointer first,
                              ExpressionPointer second = nullptr) const;  // its line
  void add(Expression& expression, ExpressionPointer part) const;

  // Tokens
  const Token& token(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  bool is(TokenKind kind) const { return token().kind == kind; }
  bool is_operator(std::string_view text, size_t ahead = 0) const {
    return token(ahead).kind == TokenKind::kOperator && token(ahead).text == text;
  }
  bool is_name(std::string_view text, size_t ahead = 0) const {
    return token(ahead).kind == TokenKind::kName && token(ahead).text == text;
  }
  bool skip_operator(std::string_view text);
  bool skip_name(std::string_view text);
  void expect_operator(std::string_view text);
  void expect_name(std::string_view text);
  Token expect(TokenKind kind, std::string_view what);
  [[noreturn]] void fail_expected(std::string_view what) const;
  template <class... Parts>
  [[noreturn]] void fail_at(size_t line, const Parts&... parts) const {
    fail(name_, ":", line, ": ", parts...);
  }

  // Counts how deep the parser is in itself.
  struct Level {
    explicit Level(Parser& parser);
    ~Level() { --parser.level_; }
    Parser& parser;
  };

  std::vector<Token> tokens_;
  const std::string& name_;
  size_t at_ = 0;
  int level_ = 0;
  std::vector<Ends> open_ends_;
  std::vector<Token> open_tags_;
};

}  // namespace rankfold::jinja
