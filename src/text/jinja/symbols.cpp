#include "text/jinja/symbols.h"

#include <utility>

namespace rankfold::jinja {

void Collector::expression(const Expression* e) {
  if (e == nullptr) return;
  if (e->kind == ExpressionKind::kName || e->kind == ExpressionKind::kNamespaceName) symbols_->load(e->name);
  for (const auto& part : e->parts) expression(part.get());
  for (const auto& [name, part] : e->named) expression(part.get());
  expression(e->more_positional.get());
  expression(e->more_named.get());
}

void Collector::target(const Expression& e, bool as_parameter) {
  if (e.kind == ExpressionKind::kNamespaceName)
    symbols_->load(e.name);
  else if (e.kind == ExpressionKind::kName)
    as_parameter ? symbols_->parameter(e.name) : symbols_->store(e.name);
  for (const auto& part : e.parts) target(*part, as_parameter);
}

void Collector::body(const Body& statements) {
  for (const auto& statement : statements) this->statement(*statement);
}

void Collector::statement(const Statement& s) {
  switch (s.kind) {
    case StatementKind::kSet:
      expression(s.expressions[1].get());
      target(*s.expressions[0], false);
      break;
    case StatementKind::kSetBlock:
      target(*s.expressions[0], false);
      break;
    case StatementKind::kFor:
      expression(s.loop->items.get());
      break;
    case StatementKind::kMacro:
      symbols_->store(s.macro->name);
      break;
    case StatementKind::kWith:
      for (size_t k = 1; k < s.expressions.size(); k += 2) expression(s.expressions[k].get());
      break;
    case StatementKind::kIf:
      branches(s.branches);
      break;
    default:  // output, call, filter
      for (const auto& e : s.expressions) expression(e.get());
  }
}

Symbols Collector::branch(const std::function<void()>& meet) {
  Symbols* const before = symbols_;
  Symbols its;
  its.parent = before->parent;
  its.before = before;
  symbols_ = &its;
  meet();
  symbols_ = before;
  return its;
}

// Jinja takes an elif for a statement within the else.
void Collector::branches(const std::vector<Branch>& all) {
  expression(all[0].test.get());
  std::vector<Symbols> found;
  found.push_back(branch([&] { body(all[0].body); }));
  found.push_back(branch([&] {
    for (size_t k = 1; k < all.size() && all[k].test; ++k) {
      expression(all[k].test.get());
      symbols_->merge({branch([&] { body(all[k].body); })});
    }
  }));
  found.push_back(branch([&] {
    if (!all.back().test) body(all.back().body);
  }));
  symbols_->merge(found);
}

namespace {

class NameReader {
 public:
  NameReader(const Body& statements, std::string_view name) : name_(name) { body(statements); }
  explicit operator bool() const { return reads_; }

 private:
  void body(const Body& statements) {
    for (const auto& s : statements) {
      if (s->kind == StatementKind::kSet) {
        target(s->expressions[0].get());
        expression(s->expressions[1].get());
      } else if (s->kind == StatementKind::kSetBlock || s->kind == StatementKind::kWith) {
        for (size_t k = 0; k < s->expressions.size(); ++k)
          k % 2 == 0 ? target(s->expressions[k].get()) : expression(s->expressions[k].get());
      } else {
        for (const auto& e : s->expressions) expression(e.get());
      }
      for (const Branch& branch : s->branches) {
        expression(branch.test.get());
        body(branch.body);
      }
      if (s->loop) {
        target(s->loop->target.get());
        expression(s->loop->items.get());
        body(s->loop->body);
        body(s->loop->otherwise);
        expression(s->loop->test.get());
      }
      if (s->macro) {
        for (const Parameter& parameter : s->macro->parameters) {
          sets_ = sets_ || parameter.name == name_;
          expression(parameter.otherwise.get());
        }
        body(s->macro->body);
      }
      body(s->body);
    }
  }
  void target(const Expression* e) {
    if (e == nullptr) return;
    if (e->kind == ExpressionKind::kName && e->name == name_) sets_ = true;
    for (const auto& part : e->parts) target(part.get());
  }
  void expression(const Expression* e) {
    if (e == nullptr || sets_) return;
    if (e->kind == ExpressionKind::kName && e->name == name_) reads_ = true;
    for (const auto& part : e->parts) expression(part.get());
    for (const auto& [name, part] : e->named) expression(part.get());
    expression(e->more_positional.get());
    expression(e->more_named.get());
  }

  std::string_view name_;
  bool reads_ = false, sets_ = false;
};

}  // namespace

bool reads(const Body& statements, std::string_view name) { return static_cast<bool>(NameReader(statements, name)); }

}  // namespace rankfold::jinja
