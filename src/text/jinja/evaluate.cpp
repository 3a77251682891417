// Expressions.
#include "text/jinja/interpreter.h"
#include "text/jinja/print.h"

namespace rankfold::jinja {

std::vector<Value> Interpreter::evaluate_all(const Expression& e, const FramePointer& frame) {
  std::vector<Value> values;
  values.reserve(e.parts.size());
  for (const auto& part : e.parts) values.push_back(evaluate(*part, frame));
  return values;
}

Value Interpreter::evaluate(const Expression& e, const FramePointer& frame) {
  const Level level;
  spend(1);
  switch (e.kind) {
    case ExpressionKind::kConstant:
      return e.constant;
    case ExpressionKind::kName:
    case ExpressionKind::kNamespaceName:
      return evaluate_name(e, frame);
    case ExpressionKind::kTuple:
      return Value::tuple(evaluate_all(e, frame));
    case ExpressionKind::kList:
      return Value::list(evaluate_all(e, frame));
    case ExpressionKind::kDict:
      return evaluate_dict(e, frame);
    case ExpressionKind::kConditional:
      return evaluate_conditional(e, frame);
    case ExpressionKind::kOr:
    case ExpressionKind::kAnd: {
      Value left = evaluate(*e.parts[0], frame);
      return truth(left) == (e.kind == ExpressionKind::kOr) ? left : evaluate(*e.parts[1], frame);
    }
    case ExpressionKind::kNot:
      return !truth(evaluate(*e.parts[0], frame));
    case ExpressionKind::kCompare:
      return evaluate_compare(e, frame);
    case ExpressionKind::kCalculate: {
      const Value left = evaluate(*e.parts[0], frame), right = evaluate(*e.parts[1], frame);
      line_ = e.line;
      return calculate(e.operation, left, right);
    }
    case ExpressionKind::kConcatenate:
      return evaluate_concatenate(e, frame);
    case ExpressionKind::kNegate:
      return negate(evaluate(*e.parts[0], frame));
    case ExpressionKind::kPlus:
      return plus(evaluate(*e.parts[0], frame));
    case ExpressionKind::kAttribute: {
      const Value value = evaluate(*e.parts[0], frame);
      line_ = e.line;
      return attribute(value, e.name);
    }
    case ExpressionKind::kItem: {
      const Value value = evaluate(*e.parts[0], frame), index = evaluate(*e.parts[1], frame);
      line_ = e.line;
      return item(value, index);
    }
    case ExpressionKind::kSlice:
      return evaluate_slice(e, frame);
    case ExpressionKind::kCall:
      return evaluate_call(e, frame);
    case ExpressionKind::kFilter:
      return evaluate_filter(e, frame);
    case ExpressionKind::kTest: {
      const Value value = evaluate(*e.parts[0], frame);
      Arguments arguments = evaluate_arguments(e, frame);
      line_ = e.line;
      return call_test(context_, e.name, value, std::move(arguments));
    }
  }
  return {};  // not reached
}

Value Interpreter::evaluate_name(const Expression& e, const FramePointer& frame) {
  const Frame* at = frame.get();
  for (uint32_t hop = 0; hop < e.place.hops; ++hop) at = at->outer.get();
  const Value& value = at->slots[e.place.slot];
  return value.is<Missing>() ? Value::undefined("'" + e.name + "' is undefined") : value;
}

Value Interpreter::evaluate_conditional(const Expression& e, const FramePointer& frame) {
  if (truth(evaluate(*e.parts[0], frame))) return evaluate(*e.parts[1], frame);
  if (e.parts[2]) return evaluate(*e.parts[2], frame);
  return Value::undefined(
      join("the inline if-expression on line ", e.line, " evaluated to false and no else section was defined."));
}

Value Interpreter::evaluate_compare(const Expression& e, const FramePointer& frame) {
  Value left = evaluate(*e.parts[0], frame);
  for (size_t k = 0; k < e.comparisons.size(); ++k) {
    Value right = evaluate(*e.parts[k + 1], frame);
    line_ = e.line;
    if (!compare(e.comparisons[k], left, right)) return false;
    left = std::move(right);
  }
  return true;
}

Value Interpreter::evaluate_concatenate(const Expression& e, const FramePointer& frame) {
  const std::vector<Value> values = evaluate_all(e, frame);
  TextBuilder out;
  for (const Value& value : values) out.append(to_text(value));
  return out.build();
}

Value Interpreter::evaluate_dict(const Expression& e, const FramePointer& frame) {
  std::vector<Entry> entries;
  for (size_t k = 0; k < e.parts.size(); k += 2) {
    Value key = evaluate(*e.parts[k], frame);
    entries.emplace_back(std::move(key), evaluate(*e.parts[k + 1], frame));
  }
  line_ = e.line;
  return Value::dict(std::move(entries));
}

Value Interpreter::evaluate_slice(const Expression& e, const FramePointer& frame) {
  Value parts[4];
  for (size_t k = 0; k < 4; ++k)
    if (e.parts[k]) parts[k] = evaluate(*e.parts[k], frame);
  line_ = e.line;
  return slice(parts[0], parts[1], parts[2], parts[3]);
}

Arguments Interpreter::evaluate_arguments(const Expression& e, const FramePointer& frame) {
  Arguments arguments;
  for (size_t k = 1; k < e.parts.size(); ++k) arguments.positional.push_back(evaluate(*e.parts[k], frame));
  for (const auto& [name, value] : e.named) arguments.named.emplace_back(name, evaluate(*value, frame));
  if (e.more_positional) {
    const Value more = evaluate(*e.more_positional, frame);
    if (!is_iterable(more)) throw Raised(join("argument after * must be an iterable, not ", type_name(more)));
    for (Value& value : to_vector(more)) arguments.positional.push_back(std::move(value));
  }
  if (!e.more_named) return arguments;
  const Value more = evaluate(*e.more_named, frame);
  if (!more.is_dict()) throw Raised(join("argument after ** must be a mapping, not ", type_name(more)));
  for (const auto& [name, value] : more.mapping().entries()) {
    if (!name.is_text()) throw Raised("keywords must be strings");
    spend(1 + arguments.named.size() / 16 + name.text().size() / 32);
    for (const auto& [given, _] : arguments.named)
      if (given == name.text().view()) throw Raised(join("got multiple values for keyword argument '", given, "'"));
    arguments.named.emplace_back(name.text().string(), value);
  }
  return arguments;
}

Value Interpreter::evaluate_call(const Expression& e, const FramePointer& frame, const Value* caller) {
  const Value function = evaluate(*e.parts[0], frame);
  Arguments arguments = evaluate_arguments(e, frame);
  if (caller != nullptr) arguments.named.emplace_back("caller", *caller);
  line_ = e.line;
  return call(function, std::move(arguments));
}

Value Interpreter::evaluate_filter(const Expression& e, const FramePointer& frame, const Text* block) {
  // Of a chain on a block's text, the innermost filter has no value of its own.
  Value value;
  if (!e.parts[0])
    value = *block;
  else if (block != nullptr)
    value = evaluate_filter(*e.parts[0], frame, block);
  else
    value = evaluate(*e.parts[0], frame);
  Arguments arguments = evaluate_arguments(e, frame);
  line_ = e.line;
  return call_filter(context_, e.name, value, std::move(arguments));
}

}  // namespace rankfold::jinja
