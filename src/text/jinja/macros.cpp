// Macros, and the blocks of call and generation tags, which are macros without a name.
#include "text/jinja/interpreter.h"
#include "text/jinja/print.h"

#include <algorithm>
#include <utility>

namespace rankfold::jinja {
namespace {

class MacroValue : public Object {
 public:
  MacroValue(Interpreter& interpreter, std::shared_ptr<const Macro> macro, FramePointer outside)
      : interpreter_(interpreter), macro_(std::move(macro)), outside_(std::move(outside)) {}
  std::string type_name() const override { return "jinja2.runtime.Macro"; }
  Text print() override { return macro_->name.empty() ? "<Macro anonymous>" : "<Macro '" + macro_->name + "'>"; }
  bool is_callable() const override { return true; }
  Value call(Arguments arguments) override { return interpreter_.call_macro(macro_, outside_, std::move(arguments)); }
  Value attribute(std::string_view name) override {
    if (name == "name") return macro_->name.empty() ? Value(None()) : Value(macro_->name);
    if (name == "catch_kwargs") return macro_->takes_named;
    if (name == "catch_varargs") return macro_->takes_more;
    if (name == "caller") return macro_->takes_caller;
    if (name != "arguments") return {};
    std::vector<Value> names;
    for (const Parameter& parameter : macro_->parameters) names.emplace_back(parameter.name);
    return Value::tuple(std::move(names));
  }

 private:
  Interpreter& interpreter_;
  std::shared_ptr<const Macro> macro_;
  FramePointer outside_;
};

}  // namespace

Value Interpreter::make_macro(const std::shared_ptr<const Macro>& macro, const FramePointer& frame) {
  return ObjectPointer(std::make_shared<MacroValue>(*this, macro, frame));
}

Value Interpreter::call_macro(const std::shared_ptr<const Macro>& macro, const FramePointer& outside,
                              Arguments arguments) {
  const Level level;
  if (calls_ == kDeepestCalls) throw Raised(join("macros call each other deeper than ", kDeepestCalls, " levels"));
  ++calls_;
  const std::unique_ptr<int, void (*)(int*)> left(&calls_, [](int* calls) { --*calls; });
  EnteredFrame frame(macro->frame, outside);
  const size_t count = macro->parameters.size();
  std::vector<Value>& given = arguments.positional;
  const bool has_caller_parameter = [&] {
    for (const Parameter& parameter : macro->parameters)
      if (parameter.name == "caller") return true;
    return false;
  }();
  for (size_t k = 0; k < count; ++k) {
    const Parameter& parameter = macro->parameters[k];
    if (k < given.size())
      frame[parameter.slot] = given[k];
    else if (std::optional<Value> named = arguments.take_named(parameter.name))
      frame[parameter.slot] = std::move(*named);
  }
  if (macro->takes_caller && !has_caller_parameter) {
    std::optional<Value> caller = arguments.take_named("caller");
    if (caller && caller->is_none()) caller.reset();
    frame[macro->caller_slot] = caller ? std::move(*caller) : Value::undefined("No caller defined");
  }
  const std::string shown = macro->name.empty() ? "None" : "'" + macro->name + "'";
  if (macro->takes_named) {
    std::vector<Entry> entries;
    for (auto& [name, value] : arguments.named) entries.emplace_back(name, std::move(value));
    frame[macro->named_slot] = Value::dict(std::move(entries));
  } else if (!arguments.named.empty()) {
    throw Raised(join("macro ", shown, " takes no keyword argument '", arguments.named[0].first, "'"));
  }
  if (macro->takes_more) {
    const auto first = given.begin() + static_cast<std::ptrdiff_t>(std::min(count, given.size()));
    frame[macro->more_slot] = Value::tuple(std::vector<Value>(first, given.end()));
  } else if (given.size() > count) {
    throw Raised(join("macro ", shown, " takes not more than ", count, " argument(s)"));
  }
  fill(*frame.frame(), macro->frame);
  for (const Parameter& parameter : macro->parameters) {
    if (!frame[parameter.slot].is<Missing>()) continue;
    frame[parameter.slot] = parameter.otherwise
                                ? evaluate(*parameter.otherwise, frame.frame())
                                : Value::undefined("parameter '" + parameter.name + "' was not provided");
  }
  TextBuilder out;
  run_body(macro->body, frame.frame(), out);
  return out.build();
}

void Interpreter::run_generation(const Statement& s, const FramePointer& frame, TextBuilder& out) {
  TextBuilder block;
  block.append(to_text(call_macro(s.macro, frame, {})));
  block.mark_generation(0, ++generations_);
  out.append(block.build());
}

}  // namespace rankfold::jinja
