// Which variable a name means. Jinja compiles templates to Python functions and finds the variables of each body (a
// frame) before it runs. A name that a frame sets anywhere is the frame's own from its beginning: there it has the
// value of the frame outside, or of the context, or none. Templates can tell this from a look-up when a name is read,
// so it is followed to the letter: first all names of a frame are met in their order, then those of frames within.
#include "core/check.h"
#include "text/jinja/library.h"
#include "text/jinja/symbols.h"
#include "text/jinja/syntax.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace rankfold::jinja {
namespace {

// A frame while the names of its body are resolved.
struct Scope {
  Scope* parent = nullptr;
  Symbols symbols;
  std::map<std::string, uint32_t> slots;
  bool in_loop = false;  // of the same Python function, so that break and continue may leave it

  explicit Scope(Scope* outside) : parent(outside) {
    if (parent != nullptr) symbols.parent = &parent->symbols;
  }

  FrameLayout layout() {
    for (const auto& [name, load] : symbols.loads) slots.emplace(name, slots.size());
    FrameLayout result;
    result.slots = static_cast<uint32_t>(slots.size());
    for (const auto& [name, load] : symbols.loads) {
      if (load == Load::kParameter) continue;
      Fill fill{slots[name], Fill::From::kNothing, name, {}};
      if (load == Load::kContext) fill.from = Fill::From::kContext;
      if (load == Load::kOuter) {
        fill.from = Fill::From::kOuter;
        fill.outer = *parent->find(name);
      }
      result.fills.push_back(std::move(fill));
    }
    return result;
  }

  std::optional<Place> find(const std::string& name) const {
    uint32_t hops = 0;
    for (const Scope* scope = this; scope != nullptr; scope = scope->parent, ++hops)
      if (const auto slot = scope->slots.find(name); slot != scope->slots.end()) return Place{hops, slot->second};
    return std::nullopt;
  }
};

class Resolver {
 public:
  explicit Resolver(const std::string& name) : name_(name) {}

  FrameLayout run(Body& statements) {
    Scope root(nullptr);
    Collector(root.symbols).body(statements);
    FrameLayout layout = root.layout();
    body(statements, root, false);
    return layout;
  }

 private:
  template <class... Parts>
  [[noreturn]] void fail_at(size_t line, const Parts&... parts) const {
    fail(name_, ":", line, ": ", parts...);
  }

  // `is_soft`: in a branch that may not be taken, where an unknown filter is an error only when it is reached.
  void body(Body& statements, Scope& scope, bool is_soft) {
    for (const auto& s : statements) statement(*s, scope, is_soft);
  }

  void statement(Statement& s, Scope& scope, bool is_soft) {
    switch (s.kind) {
      case StatementKind::kFor:
        return loop(s, scope, is_soft);
      case StatementKind::kMacro:
      case StatementKind::kGeneration:
      case StatementKind::kCallBlock:
        if (s.kind == StatementKind::kMacro) s.place = *scope.find(s.macro->name);
        macro(s, scope);
        break;
      case StatementKind::kSetBlock:
      case StatementKind::kFilterBlock:
        return block(s, scope, is_soft);
      case StatementKind::kWith:
        return with(s, scope, is_soft);
      case StatementKind::kBreak:
      case StatementKind::kContinue:
        if (!scope.in_loop) fail_at(s.line, "break and continue must stand in a for loop");
        return;
      default:
        break;
    }
    for (const auto& e : s.expressions) expression(e.get(), scope, is_soft);
    for (Branch& branch : s.branches) {
      expression(branch.test.get(), scope, true);
      body(branch.body, scope, true);
    }
  }

  void block(Statement& s, Scope& outside, bool is_soft) {
    Scope scope(&outside);
    scope.in_loop = outside.in_loop;
    Collector collector(scope.symbols);
    collector.body(s.body);
    const bool is_filter = s.kind == StatementKind::kFilterBlock;
    if (is_filter) collector.expression(s.expressions[0].get());
    // Jinja forgets the names of a set block's filter, whose arguments then must be known outside.
    s.frame = scope.layout();
    body(s.body, scope, false);
    if (!is_filter) expression(s.expressions[0].get(), outside, is_soft);
    expression(s.expressions.back().get(), scope, false);
  }

  void with(Statement& s, Scope& outside, bool is_soft) {
    Scope scope(&outside);
    scope.in_loop = outside.in_loop;
    Collector collector(scope.symbols);
    for (size_t k = 0; k < s.expressions.size(); k += 2) collector.target(*s.expressions[k], true);
    collector.body(s.body);
    s.frame = scope.layout();
    for (size_t k = 0; k < s.expressions.size(); ++k)
      k % 2 == 0 ? expression(s.expressions[k].get(), scope, false)
                 : expression(s.expressions[k].get(), outside, is_soft);
    body(s.body, scope, false);
  }

  void loop(Statement& s, Scope& outside, bool is_soft) {
    Loop& loop = *s.loop;
    refuse_loop_target(s);
    Scope scope(&outside), test_scope(&outside), otherwise(&outside);
    scope.in_loop = true;
    otherwise.in_loop = outside.in_loop && !loop.is_recursive;
    loop.has_loop = loop.is_recursive || reads(loop.body, "loop");
    if (loop.has_loop) scope.symbols.parameter("loop");
    Collector inner(scope.symbols), test(test_scope.symbols);
    inner.target(*loop.target, true);
    inner.body(loop.body);
    test.target(*loop.target, true);
    test.expression(loop.test.get());
    Collector(otherwise.symbols).body(loop.otherwise);
    loop.frame = scope.layout();
    loop.test_frame = test_scope.layout();
    loop.otherwise_frame = otherwise.layout();
    if (loop.has_loop) loop.loop_slot = scope.slots.at("loop");
    expression(loop.target.get(), scope, false);
    expression(loop.items.get(), outside, is_soft);
    expression(loop.test.get(), test_scope, false);
    body(loop.body, scope, false);
    body(loop.otherwise, otherwise, false);
    if (!loop.test) return;
    loop.test_target = copy_target(*loop.target);
    expression(loop.test_target.get(), test_scope, false);
  }

  static ExpressionPointer copy_target(const Expression& target) {
    auto copy = std::make_unique<Expression>();
    copy->kind = target.kind;
    copy->line = target.line;
    copy->name = target.name;
    for (const auto& part : target.parts) copy->parts.push_back(copy_target(*part));
    return copy;
  }

  void refuse_loop_target(const Statement& s) const {
    if (sets_loop(*s.loop->target)) fail_at(s.line, "Can't assign to special loop variable in for-loop target");
    refuse_loop_in(s.loop->body);
    refuse_loop_in(s.loop->otherwise);
  }
  static bool sets_loop(const Expression& target) {
    return (target.kind == ExpressionKind::kName && target.name == "loop") ||
           std::any_of(target.parts.begin(), target.parts.end(), [](const auto& part) { return sets_loop(*part); });
  }
  void refuse_loop_in(const Body& statements) const {
    for (const auto& s : statements) {
      if ((s->kind == StatementKind::kSet || s->kind == StatementKind::kSetBlock) && sets_loop(*s->expressions[0]))
        fail_at(s->line, "Can't assign to special loop variable in for-loop target");
      for (const Branch& branch : s->branches) refuse_loop_in(branch.body);
      if (s->macro) refuse_loop_in(s->macro->body);
      refuse_loop_in(s->body);
    }
  }

  void macro(Statement& s, Scope& outside) {
    Macro& macro = *s.macro;
    Scope scope(&outside);
    const auto collect = [&] {
      for (const Parameter& parameter : macro.parameters) scope.symbols.parameter(parameter.name);
      Collector collector(scope.symbols);
      for (const Parameter& parameter : macro.parameters) collector.expression(parameter.otherwise.get());
      collector.body(macro.body);
    };
    collect();
    const auto has = [&](std::string_view name) {
      return std::any_of(macro.parameters.begin(), macro.parameters.end(), [&](auto& p) { return p.name == name; });
    };
    const auto special = [&](const char* name) {
      if (!reads(macro.body, name) || has(name)) return false;
      scope.symbols.parameter(name);
      return true;
    };
    if (has("caller") && reads(macro.body, "caller"))
      for (const Parameter& parameter : macro.parameters)
        if (parameter.name == "caller" && !parameter.otherwise)
          fail_at(s.line, "the special parameter 'caller' must be omitted or be given a default");
    macro.takes_caller = special("caller");
    macro.takes_named = special("kwargs");
    macro.takes_more = special("varargs");
    macro.frame = scope.layout();
    for (Parameter& parameter : macro.parameters) parameter.slot = scope.slots.at(parameter.name);
    if (macro.takes_caller) macro.caller_slot = scope.slots.at("caller");
    if (macro.takes_named) macro.named_slot = scope.slots.at("kwargs");
    if (macro.takes_more) macro.more_slot = scope.slots.at("varargs");
    for (Parameter& parameter : macro.parameters) expression(parameter.otherwise.get(), scope, false);
    body(macro.body, scope, false);
  }

  void expression(Expression* e, Scope& scope, bool is_soft) {
    if (e == nullptr) return;
    if (e->kind == ExpressionKind::kName || e->kind == ExpressionKind::kNamespaceName) {
      const std::optional<Place> place = scope.find(e->name);
      if (!place) fail_at(e->line, "the variable '", e->name, "' is not known here");
      e->place = *place;
    }
    if (e->kind == ExpressionKind::kFilter && !is_soft && !has_filter(e->name))
      fail_at(e->line, "No filter named '", e->name, "'.");
    if (e->kind == ExpressionKind::kTest && !is_soft && !has_test(e->name))
      fail_at(e->line, "No test named '", e->name, "'.");
    is_soft = is_soft || e->kind == ExpressionKind::kConditional;
    for (const auto& part : e->parts) expression(part.get(), scope, is_soft);
    for (const auto& [name, part] : e->named) expression(part.get(), scope, is_soft);
    expression(e->more_positional.get(), scope, is_soft);
    expression(e->more_named.get(), scope, is_soft);
  }

  const std::string& name_;
};

}  // namespace

FrameLayout resolve_names(Body& body, const std::string& name) { return Resolver(name).run(body); }

}  // namespace rankfold::jinja
