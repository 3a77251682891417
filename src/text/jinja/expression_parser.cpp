#include "text/jinja/parser.h"

#include <algorithm>
#include <cstdlib>
#include <set>

namespace rankfold::jinja {
namespace {

constexpr uint32_t kDeepestExpression = 200;  // Python refuses as many brackets within each other

bool is_constant(std::string_view name) {
  return name == "true" || name == "True" || name == "false" || name == "False" || name == "none" || name == "None";
}

Value constant(std::string_view name) {
  if (name == "none" || name == "None") return None();
  return name == "true" || name == "True";
}

unsigned base_of(std::string_view number) {
  if (number.size() < 2 || number[0] != '0') return 10;
  const char letter = static_cast<char>(number[1] | 0x20);
  return letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 10;
}

}  // namespace

ExpressionPointer Parser::make(Kind kind, size_t line) const {
  auto expression = std::make_unique<Expression>();
  expression->kind = kind;
  expression->line = line;
  return expression;
}

ExpressionPointer Parser::make(Kind kind, size_t line, ExpressionPointer first, ExpressionPointer second) const {
  ExpressionPointer expression = make(kind, line);
  add(*expression, std::move(first));
  if (second) add(*expression, std::move(second));
  return expression;
}

ExpressionPointer Parser::make_from(Kind kind, ExpressionPointer first, ExpressionPointer second) const {
  const size_t line = first->line;
  return make(kind, line, std::move(first), std::move(second));
}

void Parser::add(Expression& expression, ExpressionPointer part) const {
  if (part) expression.depth = std::max(expression.depth, part->depth + 1);
  if (expression.depth > kDeepestExpression)
    fail_at(expression.line, "the expression is nested deeper than ", kDeepestExpression, " levels");
  expression.parts.push_back(std::move(part));
}

ExpressionPointer Parser::parse_name_target() {
  const Token name = expect(TokenKind::kName, "name");
  if (is_constant(name.text)) fail_at(name.line, "can't assign to '", name.text, "'");
  ExpressionPointer target = make(Kind::kName, name.line);
  target->name = name.text;
  return target;
}

ExpressionPointer Parser::parse_target(bool with_namespace, std::string_view end) {
  const auto one = [&] {
    const Level level(*this);
    if (skip_operator("(")) {
      ExpressionPointer inner = parse_target(with_namespace, ")");
      expect_operator(")");
      return inner;
    }
    if (!is(TokenKind::kName)) fail_expected("a name to assign to");
    ExpressionPointer target = parse_name_target();
    if (!with_namespace || !skip_operator(".")) return target;
    target->kind = Kind::kNamespaceName;
    target->constant = Text(expect(TokenKind::kName, "name").text);
    return target;
  };
  const auto at_end = [&] {
    return is(TokenKind::kVariableEnd) || is(TokenKind::kBlockEnd) || is_operator(")") ||
           (!end.empty() && is_name(end));
  };
  ExpressionPointer target = one();
  if (!is_operator(",")) return target;
  ExpressionPointer tuple = make_from(Kind::kTuple, std::move(target));
  while (skip_operator(",") && !at_end()) add(*tuple, one());
  return tuple;
}

ExpressionPointer Parser::parse_tuple(bool with_conditional, bool in_parentheses, std::string_view end) {
  const size_t line = token().line;
  const auto at_end = [&] {
    return is(TokenKind::kVariableEnd) || is(TokenKind::kBlockEnd) || is_operator(")") ||
           (!end.empty() && is_name(end));
  };
  if (at_end()) {
    if (!in_parentheses) fail_at(line, "Expected an expression, got '", describe(token()), "'");
    return make(Kind::kTuple, line);
  }
  ExpressionPointer first = parse_expression(with_conditional);
  if (!is_operator(",")) return first;
  ExpressionPointer tuple = make(Kind::kTuple, line, std::move(first));
  while (skip_operator(",") && !at_end()) add(*tuple, parse_expression(with_conditional));
  return tuple;
}

ExpressionPointer Parser::parse_expression(bool with_conditional) {
  const Level level(*this);
  ExpressionPointer value = parse_or();
  while (with_conditional && is_name("if")) {
    const size_t line = token().line;
    ++at_;
    ExpressionPointer test = parse_or();
    ExpressionPointer otherwise = skip_name("else") ? parse_expression() : nullptr;
    value = make(Kind::kConditional, line, std::move(test), std::move(value));
    add(*value, std::move(otherwise));
  }
  return value;
}

ExpressionPointer Parser::parse_or() {
  ExpressionPointer left = parse_and();
  while (skip_name("or")) left = make_from(Kind::kOr, std::move(left), parse_and());
  return left;
}

ExpressionPointer Parser::parse_and() {
  ExpressionPointer left = parse_not();
  while (skip_name("and")) left = make_from(Kind::kAnd, std::move(left), parse_not());
  return left;
}

ExpressionPointer Parser::parse_not() {
  const Level level(*this);
  const size_t line = token().line;
  return skip_name("not") ? make(Kind::kNot, line, parse_not()) : parse_compare();
}

ExpressionPointer Parser::parse_compare() {
  constexpr std::pair<std::string_view, Comparison> kSigns[] = {
      {"==", Comparison::kEqual},     {"!=", Comparison::kNotEqual}, {"<", Comparison::kLess},
      {"<=", Comparison::kLessEqual}, {">", Comparison::kGreater},   {">=", Comparison::kGreaterEqual}};
  ExpressionPointer left = parse_sum();
  ExpressionPointer comparison;
  while (true) {
    const auto sign = std::find_if(std::begin(kSigns), std::end(kSigns), [&](auto& s) { return is_operator(s.first); });
    Comparison op;
    if (sign != std::end(kSigns)) {
      op = sign->second;
      ++at_;
    } else if (skip_name("in")) {
      op = Comparison::kIn;
    } else if (is_name("not") && is_name("in", 1)) {
      op = Comparison::kNotIn;
      at_ += 2;
    } else {
      return comparison ? std::move(comparison) : std::move(left);
    }
    if (!comparison) comparison = make_from(Kind::kCompare, std::move(left));
    comparison->comparisons.push_back(op);
    add(*comparison, parse_sum());
  }
}

ExpressionPointer Parser::parse_sum() {
  ExpressionPointer left = parse_concatenation();
  while (is_operator("+") || is_operator("-")) {
    const bool adds = tokens_[at_++].text == "+";
    left = make_from(Kind::kCalculate, std::move(left), parse_concatenation());
    left->operation = adds ? Operator::kAdd : Operator::kSubtract;
  }
  return left;
}

ExpressionPointer Parser::parse_concatenation() {
  ExpressionPointer first = parse_product();
  if (!is_operator("~")) return first;
  ExpressionPointer all = make_from(Kind::kConcatenate, std::move(first));
  while (skip_operator("~")) add(*all, parse_product());
  return all;
}

ExpressionPointer Parser::parse_product() {
  constexpr std::pair<std::string_view, Operator> kSigns[] = {
      {"*", Operator::kMultiply}, {"/", Operator::kDivide}, {"//", Operator::kFloorDivide}, {"%", Operator::kModulo}};
  ExpressionPointer left = parse_power();
  while (true) {
    const auto sign = std::find_if(std::begin(kSigns), std::end(kSigns), [&](auto& s) { return is_operator(s.first); });
    if (sign == std::end(kSigns)) return left;
    ++at_;
    left = make_from(Kind::kCalculate, std::move(left), parse_power());
    left->operation = sign->second;
  }
}

ExpressionPointer Parser::parse_power() {
  ExpressionPointer left = parse_unary();
  while (skip_operator("**")) {
    left = make_from(Kind::kCalculate, std::move(left), parse_unary());
    left->operation = Operator::kPower;
  }
  return left;
}

ExpressionPointer Parser::parse_unary(bool with_filter) {
  const Level level(*this);
  const size_t line = token().line;
  ExpressionPointer value;
  if (skip_operator("-"))
    value = make(Kind::kNegate, line, parse_unary(false));
  else if (skip_operator("+"))
    value = make(Kind::kPlus, line, parse_unary(false));
  else
    value = parse_primary();
  value = parse_postfix(std::move(value));
  return with_filter ? parse_filters(std::move(value)) : std::move(value);
}

ExpressionPointer Parser::parse_primary() {
  const Token& first = token();
  ExpressionPointer value = make(Kind::kConstant, first.line);
  if (first.kind == TokenKind::kName) {
    if (is_constant(first.text)) {
      value->constant = constant(first.text);
    } else {
      value->kind = Kind::kName;
      value->name = first.text;
    }
    ++at_;
  } else if (first.kind == TokenKind::kString) {
    std::string text;
    while (is(TokenKind::kString)) text += tokens_[at_++].text;
    value->constant = Text(std::move(text));
  } else if (first.kind == TokenKind::kInteger) {
    const unsigned base = base_of(first.text);
    if (first.text.size() > 4300) fail_at(first.line, "an integer has more than 4300 digits");
    value->constant = Integer::parse(std::string_view(first.text).substr(base == 10 ? 0 : 2), base);
    ++at_;
  } else if (first.kind == TokenKind::kFloat) {
    value->constant = std::strtod(first.text.c_str(), nullptr);
    ++at_;
  } else if (skip_operator("(")) {
    value = parse_tuple(true, true);
    expect_operator(")");
  } else if (skip_operator("[")) {
    value->kind = Kind::kList;
    while (!is_operator("]")) {
      add(*value, parse_expression());
      if (!is_operator("]")) expect_operator(",");
    }
    ++at_;
  } else if (is_operator("{")) {
    value = parse_dict();
  } else {
    fail_at(first.line, "expected an expression, got '", describe(first), "'");
  }
  return value;
}

ExpressionPointer Parser::parse_dict() {
  ExpressionPointer dict = make(Kind::kDict, token().line);
  expect_operator("{");
  while (!is_operator("}")) {
    add(*dict, parse_expression());
    expect_operator(":");
    add(*dict, parse_expression());
    if (!is_operator("}")) expect_operator(",");
  }
  ++at_;
  return dict;
}

ExpressionPointer Parser::parse_postfix(ExpressionPointer value) {
  while (true) {
    if (is_operator(".") || is_operator("[")) {
      value = parse_subscript(std::move(value));
    } else if (is_operator("(")) {
      value = make(Kind::kCall, token().line, std::move(value));
      parse_arguments(*value);
    } else {
      return value;
    }
  }
}

ExpressionPointer Parser::parse_filters(ExpressionPointer value) {
  while (true) {
    if (is_operator("|")) {
      ++at_;
      value = parse_filter(std::move(value));
    } else if (is_name("is")) {
      value = parse_test(std::move(value));
    } else if (is_operator("(")) {
      value = make(Kind::kCall, token().line, std::move(value));
      parse_arguments(*value);
    } else {
      return value;
    }
  }
}

std::string Parser::parse_dotted_name() {
  std::string name = expect(TokenKind::kName, "name").text;
  while (skip_operator(".")) name += "." + expect(TokenKind::kName, "name").text;
  return name;
}

ExpressionPointer Parser::parse_filter(ExpressionPointer value) {
  ExpressionPointer filter = make(Kind::kFilter, token().line, std::move(value));
  filter->name = parse_dotted_name();
  if (is_operator("(")) parse_arguments(*filter);
  return filter;
}

ExpressionPointer Parser::parse_test(ExpressionPointer value) {
  const size_t line = token().line;
  expect_name("is");
  const bool is_negated = skip_name("not");
  ExpressionPointer test = make(Kind::kTest, line, std::move(value));
  test->name = parse_dotted_name();
  const bool starts_value = is(TokenKind::kName) || is(TokenKind::kString) || is(TokenKind::kInteger) ||
                            is(TokenKind::kFloat) || is_operator("[") || is_operator("{");
  if (is_operator("(")) {
    parse_arguments(*test);
  } else if (starts_value && !is_name("else") && !is_name("or") && !is_name("and")) {
    if (is_name("is")) fail_at(token().line, "You cannot chain multiple tests with is");
    add(*test, parse_postfix(parse_primary()));
  }
  return is_negated ? make(Kind::kNot, line, std::move(test)) : std::move(test);
}

ExpressionPointer Parser::parse_subscript(ExpressionPointer value) {
  const size_t line = token().line;
  if (skip_operator(".")) {
    if (is(TokenKind::kName)) {
      value = make(Kind::kAttribute, line, std::move(value));
      value->name = tokens_[at_++].text;
      return value;
    }
    if (!is(TokenKind::kInteger)) fail_expected("name or number");
    return make(Kind::kItem, line, std::move(value), parse_primary());
  }
  expect_operator("[");
  const auto bound = [&]() -> ExpressionPointer {
    return is_operator(":") || is_operator("]") ? nullptr : parse_expression();
  };
  ExpressionPointer first = bound();
  if (!is_operator(":")) {
    if (!first) fail_expected("an index");
    if (is_operator(",")) {
      first = make(Kind::kTuple, line, std::move(first));
      while (skip_operator(",")) add(*first, parse_expression());
    }
    expect_operator("]");
    return make(Kind::kItem, line, std::move(value), std::move(first));
  }
  value = make(Kind::kSlice, line, std::move(value));
  add(*value, std::move(first));
  for (int k = 0; k < 2; ++k) add(*value, skip_operator(":") ? bound() : nullptr);
  expect_operator("]");
  return value;
}

void Parser::parse_arguments(Expression& call) {
  const size_t line = token().line;
  std::set<std::string> names;
  expect_operator("(");
  const auto check = [&](bool is_right) {
    if (!is_right) fail_at(line, "invalid syntax for function call expression");
  };
  while (!is_operator(")")) {
    if (is_operator("*") || is_operator("**")) {
      const bool is_named = tokens_[at_++].text == "**";
      check(!call.more_named && (is_named || !call.more_positional));
      (is_named ? call.more_named : call.more_positional) = parse_expression();
    } else if (is(TokenKind::kName) && is_operator("=", 1)) {
      check(!call.more_named);
      const std::string name = token().text;
      at_ += 2;
      if (!names.insert(name).second) fail_at(line, "keyword argument repeated: ", name);
      call.named.emplace_back(name, parse_expression());
    } else {
      check(!call.more_positional && !call.more_named && call.named.empty());
      add(call, parse_expression());
    }
    if (!is_operator(")")) expect_operator(",");
  }
  ++at_;
  for (const Expression* part : {call.more_positional.get(), call.more_named.get()})
    if (part != nullptr) call.depth = std::max(call.depth, part->depth + 1);
  for (const auto& [name, part] : call.named) call.depth = std::max(call.depth, part->depth + 1);
  if (call.depth > kDeepestExpression)
    fail_at(line, "the expression is nested deeper than ", kDeepestExpression, " levels");
}

}  // namespace rankfold::jinja
