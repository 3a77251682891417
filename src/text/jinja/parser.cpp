#include "text/jinja/parser.h"

#include <algorithm>
#include <set>

namespace rankfold::jinja {
namespace {

constexpr int kDeepestParse = 300;  // calls within calls of the functions that nest

}  // namespace

Parser::Level::Level(Parser& its_parser) : parser(its_parser) {
  if (++parser.level_ <= kDeepestParse) return;
  --parser.level_;
  parser.fail_at(parser.token().line, "the template is nested too deep");
}

bool Parser::skip_operator(std::string_view text) {
  if (!is_operator(text)) return false;
  ++at_;
  return true;
}

bool Parser::skip_name(std::string_view text) {
  if (!is_name(text)) return false;
  ++at_;
  return true;
}

void Parser::fail_expected(std::string_view what) const {
  if (is(TokenKind::kEnd)) fail_at(token().line, "unexpected end of template, expected '", what, "'");
  fail_at(token().line, "expected '", what, "', got '", describe(token()), "'");
}

void Parser::expect_operator(std::string_view text) {
  if (!skip_operator(text)) fail_expected(text);
}

void Parser::expect_name(std::string_view text) {
  if (!skip_name(text)) fail_expected(text);
}

Token Parser::expect(TokenKind kind, std::string_view what) {
  if (!is(kind)) fail_expected(what);
  return tokens_[at_++];
}

void Parser::fail_tag(const Token& tag, bool is_end) const {
  std::string message = is_end ? "Unexpected end of template." : "Encountered unknown tag '" + tag.text + "'.";
  if (!open_ends_.empty()) {
    message += " Jinja was looking for the following tags: ";
    for (size_t k = 0; k < open_ends_.back().size(); ++k)
      message += join(k == 0 ? "'" : " or '", open_ends_.back()[k], "'");
    message += ".";
  }
  if (!open_tags_.empty())
    message += join(" The innermost block that needs to be closed is '", open_tags_.back().text, "' of line ",
                    open_tags_.back().line, ".");
  fail_at(tag.line, message);
}

Body Parser::parse_body(const Ends& ends) {
  Body body;
  Statement* output = nullptr;
  const auto add_output = [&](ExpressionPointer expression) {
    if (output == nullptr) {
      body.push_back(std::make_unique<Statement>());
      output = body.back().get();
      output->kind = StatementKind::kOutput;
      output->line = expression->line;
    }
    output->expressions.push_back(std::move(expression));
  };
  while (!is(TokenKind::kEnd)) {
    if (is(TokenKind::kData)) {
      ExpressionPointer data = make(Kind::kConstant, token().line);
      data->constant = Text(std::move(tokens_[at_++].text));
      add_output(std::move(data));
    } else if (is(TokenKind::kVariableBegin)) {
      ++at_;
      add_output(parse_tuple());
      expect(TokenKind::kVariableEnd, "end of print statement");
    } else {
      expect(TokenKind::kBlockBegin, "begin of statement block");
      output = nullptr;
      if (std::any_of(ends.begin(), ends.end(), [&](std::string_view end) { return is_name(end); })) return body;
      body.push_back(parse_statement());
      expect(TokenKind::kBlockEnd, "end of statement block");
    }
  }
  if (!ends.empty()) fail_tag(token(), true);
  return body;
}

Body Parser::parse_block(const Ends& ends) {
  skip_operator(":");
  expect(TokenKind::kBlockEnd, "end of statement block");
  open_ends_.push_back(ends);
  Body body = parse_body(ends);
  open_ends_.pop_back();
  return body;
}

Body Parser::parse_whole_block(std::string_view end) {
  Body body = parse_block({end});
  ++at_;
  return body;
}

std::unique_ptr<Statement> Parser::parse_statement() {
  const Level level(*this);
  const Token tag = token();
  if (tag.kind != TokenKind::kName) fail_at(tag.line, "tag name expected, got '", describe(tag), "'");
  auto statement = std::make_unique<Statement>();
  statement->line = tag.line;
  const auto begin = [&](StatementKind kind) {
    statement->kind = kind;
    open_tags_.push_back(tag);
    ++at_;
  };
  if (tag.text == "if") {
    begin(StatementKind::kIf);
    parse_if(*statement);
  } else if (tag.text == "for") {
    begin(StatementKind::kFor);
    parse_for(*statement);
  } else if (tag.text == "set") {
    begin(StatementKind::kSet);
    parse_set(*statement);
  } else if (tag.text == "macro") {
    begin(StatementKind::kMacro);
    parse_macro(*statement);
  } else if (tag.text == "call") {
    begin(StatementKind::kCallBlock);
    parse_call_block(*statement);
  } else if (tag.text == "filter") {
    begin(StatementKind::kFilterBlock);
    ExpressionPointer filter = parse_filter(nullptr);
    while (skip_operator("|")) filter = parse_filter(std::move(filter));
    statement->expressions.push_back(std::move(filter));
    statement->body = parse_whole_block("endfilter");
  } else if (tag.text == "generation") {
    begin(StatementKind::kGeneration);
    statement->macro = std::make_shared<Macro>();
    statement->macro->body = parse_whole_block("endgeneration");
  } else if (tag.text == "with") {
    begin(StatementKind::kWith);
    parse_with(*statement);
  } else if (tag.text == "print") {
    begin(StatementKind::kOutput);
    while (!is(TokenKind::kBlockEnd)) {
      if (!statement->expressions.empty()) expect_operator(",");
      statement->expressions.push_back(parse_expression());
    }
  } else if (tag.text == "break" || tag.text == "continue") {
    begin(tag.text == "break" ? StatementKind::kBreak : StatementKind::kContinue);
  } else {
    for (const std::string_view other : {"block", "extends", "include", "import", "from", "autoescape"})
      if (tag.text == other) fail_at(tag.line, "the tag '", other, "' is not supported in chat templates");
    fail_tag(tag, false);
  }
  open_tags_.pop_back();
  return statement;
}

void Parser::parse_if(Statement& statement) {
  while (true) {
    ExpressionPointer test = parse_tuple(false);
    Body body = parse_block({"elif", "else", "endif"});
    statement.branches.push_back({std::move(test), std::move(body)});
    const std::string end = tokens_[at_++].text;
    if (end == "elif") continue;
    if (end == "else") statement.branches.push_back({nullptr, parse_whole_block("endif")});
    return;
  }
}

void Parser::parse_for(Statement& statement) {
  statement.loop = std::make_unique<Loop>();
  Loop& loop = *statement.loop;
  loop.target = parse_target(false, "in");
  expect_name("in");
  loop.items = parse_tuple(false, false, "recursive");
  if (skip_name("if")) loop.test = parse_expression();
  loop.is_recursive = skip_name("recursive");
  loop.body = parse_block({"endfor", "else"});
  if (tokens_[at_++].text == "else") loop.otherwise = parse_whole_block("endfor");
}

void Parser::parse_set(Statement& statement) {
  statement.expressions.push_back(parse_target(true));
  if (skip_operator("=")) {
    statement.expressions.push_back(parse_tuple());
    return;
  }
  statement.kind = StatementKind::kSetBlock;
  ExpressionPointer filter;
  while (skip_operator("|")) filter = parse_filter(std::move(filter));
  statement.expressions.push_back(std::move(filter));
  statement.body = parse_whole_block("endset");
}

void Parser::parse_with(Statement& statement) {
  while (!is(TokenKind::kBlockEnd)) {
    if (!statement.expressions.empty()) expect_operator(",");
    statement.expressions.push_back(parse_target(false));
    expect_operator("=");
    statement.expressions.push_back(parse_expression());
  }
  statement.body = parse_whole_block("endwith");
}

void Parser::parse_signature(Macro& macro) {
  std::set<std::string> names;
  expect_operator("(");
  while (!is_operator(")")) {
    if (!macro.parameters.empty()) expect_operator(",");
    Parameter parameter;
    const size_t line = token().line;
    parameter.name = parse_name_target()->name;
    if (skip_operator("="))
      parameter.otherwise = parse_expression();
    else if (!macro.parameters.empty() && macro.parameters.back().otherwise)
      fail_at(line, "non-default argument follows default argument");
    if (!names.insert(parameter.name).second) fail_at(line, "the parameter '", parameter.name, "' is given twice");
    macro.parameters.push_back(std::move(parameter));
  }
  ++at_;
}

void Parser::parse_macro(Statement& statement) {
  statement.macro = std::make_shared<Macro>();
  statement.macro->name = parse_name_target()->name;
  parse_signature(*statement.macro);
  statement.macro->body = parse_whole_block("endmacro");
}

void Parser::parse_call_block(Statement& statement) {
  statement.macro = std::make_shared<Macro>();
  if (is_operator("(")) parse_signature(*statement.macro);
  ExpressionPointer call = parse_expression();
  if (call->kind != Kind::kCall) fail_at(statement.line, "expected call");
  statement.expressions.push_back(std::move(call));
  statement.macro->body = parse_whole_block("endcall");
}

Body parse(std::string source, const std::string& name) {
  return Parser(tokenize(std::move(source), name), name).parse_template();
}

}  // namespace rankfold::jinja
