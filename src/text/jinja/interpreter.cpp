// Statements.
#include "text/jinja/interpreter.h"

#include "text/jinja/print.h"

#include <utility>

namespace rankfold::jinja {
Interpreter::Interpreter(const std::map<std::string, Value>& variables, const Options& options)
    : variables_(variables), context_{&options.now, {}}, most_output_(options.most_output) {}

Interpreter::~Interpreter() {
  for (const ObjectPointer& object : context_.kept) object->clear();
}

Value Interpreter::look_up(const std::string& name) {
  if (const auto found = variables_.find(name); found != variables_.end()) return found->second;
  return find_function(context_, name);
}

void Interpreter::fill(Frame& frame, const FrameLayout& layout) {
  spend(layout.fills.size());
  for (const Fill& fill : layout.fills) {
    Value& slot = frame.slots[fill.slot];
    if (fill.from == Fill::From::kContext) {
      slot = look_up(fill.name);
    } else if (fill.from == Fill::From::kNothing) {
      slot = Value();
    } else {
      const Frame* outer = frame.outer.get();
      for (uint32_t hop = 0; hop < fill.outer.hops; ++hop) outer = outer->outer.get();
      slot = outer->slots[fill.outer.slot];
    }
  }
}

Text Interpreter::run(const Body& body, const FrameLayout& layout) {
  const EnteredFrame root(layout, nullptr);
  fill(*root.frame(), layout);
  TextBuilder out;
  run_body(body, root.frame(), out);
  return out.build();
}

Interpreter::Flow Interpreter::run_body(const Body& body, const FramePointer& frame, TextBuilder& out) {
  for (const auto& statement : body)
    if (const Flow flow = run_statement(*statement, frame, out); flow != Flow::kNext) return flow;
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run_statement(const Statement& s, const FramePointer& frame, TextBuilder& out) {
  const Level level;
  spend(1);
  line_ = s.line;
  switch (s.kind) {
    case StatementKind::kOutput:
      for (const auto& e : s.expressions)
        out.append(e->kind == ExpressionKind::kConstant ? to_text(e->constant) : to_text(evaluate(*e, frame)));
      if (out.size() > most_output_) throw Raised(join("the text is longer than ", most_output_, " bytes"));
      return Flow::kNext;
    case StatementKind::kIf:
      return run_if(s, frame, out);
    case StatementKind::kFor: {
      const Value items = s.loop->is_recursive ? Value() : evaluate(*s.loop->items, frame);
      if (!s.loop->is_recursive) return run_loop(*s.loop, frame, items, 0, out);
      out.append(run_recursive(*s.loop, frame, evaluate(*s.loop->items, frame), 0));
      return Flow::kNext;
    }
    case StatementKind::kSet:
      run_set(s, frame);
      return Flow::kNext;
    case StatementKind::kSetBlock:
    case StatementKind::kFilterBlock:
      return run_block(s, frame, out);
    case StatementKind::kMacro: {
      Frame* home = frame.get();
      for (uint32_t hop = 0; hop < s.place.hops; ++hop) home = home->outer.get();
      home->slots[s.place.slot] = make_macro(s.macro, frame);
      return Flow::kNext;
    }
    case StatementKind::kCallBlock: {
      const Value caller = make_macro(s.macro, frame);
      out.append(to_text(evaluate_call(*s.expressions[0], frame, &caller)));
      return Flow::kNext;
    }
    case StatementKind::kGeneration:
      run_generation(s, frame, out);
      return Flow::kNext;
    case StatementKind::kWith:
      return run_with(s, frame, out);
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run_if(const Statement& s, const FramePointer& frame, TextBuilder& out) {
  for (const Branch& branch : s.branches)
    if (!branch.test || truth(evaluate(*branch.test, frame))) return run_body(branch.body, frame, out);
  return Flow::kNext;
}

void Interpreter::check_namespaces(const Expression& target, const FramePointer& frame) {
  for (const auto& part : target.parts) check_namespaces(*part, frame);
  if (target.kind != ExpressionKind::kNamespaceName) return;
  const Value value = evaluate_name(target, frame);
  if (value.object() == nullptr || dynamic_cast<Namespace*>(value.object()->get()) == nullptr)
    throw Raised("cannot assign attribute on non-namespace object");
}

void Interpreter::assign(const Expression& target, Value value, const FramePointer& frame) {
  if (target.kind == ExpressionKind::kName) {
    Frame* home = frame.get();
    for (uint32_t hop = 0; hop < target.place.hops; ++hop) home = home->outer.get();
    home->slots[target.place.slot] = std::move(value);
  } else if (target.kind == ExpressionKind::kNamespaceName) {
    const Value object = evaluate_name(target, frame);
    if (auto* its = object.object() == nullptr ? nullptr : dynamic_cast<Namespace*>(object.object()->get()))
      its->set(target.constant.text(), std::move(value));
    else
      throw Raised("cannot assign attribute on non-namespace object");
  } else {
    if (!is_iterable(value)) throw Raised(join("cannot unpack non-iterable ", type_name(value), " object"));
    const size_t count = target.parts.size();
    std::vector<Value> items;
    const IteratorPointer from = iterate(value);
    for (Value item; items.size() <= count && from->next(item);) items.push_back(std::move(item));
    if (items.size() > count) throw Raised(join("too many values to unpack (expected ", count, ")"));
    if (items.size() < count)
      throw Raised(join("not enough values to unpack (expected ", count, ", got ", items.size(), ")"));
    for (size_t k = 0; k < count; ++k) assign(*target.parts[k], std::move(items[k]), frame);
  }
}

void Interpreter::run_set(const Statement& s, const FramePointer& frame) {
  check_namespaces(*s.expressions[0], frame);
  Value value = evaluate(*s.expressions[1], frame);
  assign(*s.expressions[0], std::move(value), frame);
}

Interpreter::Flow Interpreter::run_block(const Statement& s, const FramePointer& outside, TextBuilder& out) {
  const EnteredFrame inner(s.frame, outside);
  fill(*inner.frame(), s.frame);
  TextBuilder captured;
  if (const Flow flow = run_body(s.body, inner.frame(), captured); flow != Flow::kNext) return flow;
  const Text text = captured.build();
  const Expression* const filter = s.expressions.back().get();
  const bool is_filtered = s.kind == StatementKind::kFilterBlock || filter != nullptr;
  const Value result = is_filtered ? evaluate_filter(*filter, inner.frame(), &text) : Value(text);
  if (s.kind == StatementKind::kSetBlock)
    assign(*s.expressions[0], result, outside);
  else
    out.append(to_text(result));
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run_with(const Statement& s, const FramePointer& outside, TextBuilder& out) {
  const EnteredFrame inner(s.frame, outside);
  fill(*inner.frame(), s.frame);
  for (size_t k = 0; k < s.expressions.size(); k += 2)
    assign(*s.expressions[k], evaluate(*s.expressions[k + 1], outside), inner.frame());
  return run_body(s.body, inner.frame(), out);
}

}  // namespace rankfold::jinja
