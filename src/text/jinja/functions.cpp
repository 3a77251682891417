// Functions that every template has.
#include "text/jinja/jinja.h"
#include "text/jinja/library.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"

#include <algorithm>
#include <map>

namespace rankfold::jinja {
namespace {

using FunctionBody = Value (*)(Context& context, Arguments arguments);

Value raise(Context&, Arguments arguments) {
  const Bound bound("raise_exception", std::move(arguments), {"message"}, 1);
  throw ChosenByTemplate(to_text(bound[0]).string());
}

Value time_now(Context& context, Arguments arguments) {
  const Bound bound("strftime_now", std::move(arguments), {"format"}, 1);
  return format_time(*context.now, bound.text(0, {}).view());
}

Value range(Context&, Arguments arguments) {
  if (!arguments.named.empty()) throw Raised("range() takes no keyword arguments");
  const Bound bound("range", std::move(arguments), {"start", "stop", "step"}, 1);
  for (size_t k = 0; k < 3; ++k) {
    refuse_undefined(bound[k]);
    if (bound.has(k) && !as_index(bound[k]))
      throw Raised(join("'", type_name(bound[k]), "' object cannot be interpreted as an integer"));
  }
  const Value start = bound.has(1) ? bound[0] : Value(0), stop = bound.has(1) ? bound[1] : bound[0];
  const Value step = bound.has(2) ? bound[2] : Value(1);
  if (equal(step, 0)) throw Raised("range() arg 3 must not be zero");
  const Value distance = calculate(Operator::kSubtract, stop, start);
  const Value count = negate(calculate(Operator::kFloorDivide, negate(distance), step));
  constexpr int64_t kMost = 100'000;
  if (less(kMost, count)) throw Raised("Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).");
  return ObjectPointer(std::make_shared<Range>(*as_index(start), *as_index(stop), *as_index(step),
                                               static_cast<size_t>(std::max<int64_t>(0, *as_index(count)))));
}

// What dict(...) makes of its arguments.
std::vector<Entry> entries_of(Arguments arguments) {
  if (arguments.positional.size() > 1)
    throw Raised(join("dict expected at most 1 argument, got ", arguments.positional.size()));
  std::vector<Entry> entries;
  if (!arguments.positional.empty()) {
    const Value& from = arguments.positional[0];
    if (from.is_dict()) {
      entries = from.mapping().entries();
    } else {
      const IteratorPointer items = iterate(from);
      size_t place = 0;
      for (Value pair; items->next(pair); ++place) {
        std::vector<Value> two = to_vector(pair);
        if (two.size() != 2)
          throw Raised(
              join("dictionary update sequence element #", place, " has length ", two.size(), "; 2 is required"));
        entries.emplace_back(std::move(two[0]), std::move(two[1]));
      }
    }
  }
  for (auto& [name, value] : arguments.named) entries.emplace_back(name, std::move(value));
  return entries;
}

Value dict(Context&, Arguments arguments) { return Value::dict(entries_of(std::move(arguments))); }

Value make_namespace(Context& context, Arguments arguments) {
  const Value entries = Value::dict(entries_of(std::move(arguments)));
  std::vector<Entry> named;
  for (const auto& [name, value] : entries.mapping().entries())
    if (name.is_text()) named.emplace_back(name, value);
  context.kept.push_back(std::make_shared<Namespace>(std::move(named)));
  return context.kept.back();
}

class Joiner : public Object {
 public:
  explicit Joiner(Text separator) : separator_(std::move(separator)) {}
  std::string type_name() const override { return "jinja2.utils.Joiner"; }
  bool is_callable() const override { return true; }
  Value call(Arguments arguments) override {
    Bound("joiner", std::move(arguments), {});
    return std::exchange(is_used_, true) ? separator_ : Text();
  }
  Value attribute(std::string_view name) override {
    return name == "sep" ? Value(separator_) : name == "used" ? Value(is_used_) : Value();
  }

 private:
  Text separator_;
  bool is_used_ = false;
};

Value joiner(Context&, Arguments arguments) {
  const Bound bound("joiner", std::move(arguments), {"sep"});
  return ObjectPointer(std::make_shared<Joiner>(bound.text(0, ", ")));
}

class Cycler : public Object, public std::enable_shared_from_this<Cycler> {
 public:
  explicit Cycler(Value items) : items_(std::move(items)), depth_(checked_depth(items_.depth() + 1)) {}
  std::string type_name() const override { return "jinja2.utils.Cycler"; }
  uint32_t depth() const override { return depth_; }
  Value attribute(std::string_view name) override {
    if (name == "items") return items_;
    if (name == "pos") return place_;
    if (name == "current") return items_.items()[place_];
    if (name != "next" && name != "reset") return {};
    return ObjectPointer(std::make_shared<Function>(
        std::string(name), [self = shared_from_this(), is_next = name == "next"](Arguments) -> Value {
          const Value current = self->items_.items()[self->place_];
          self->place_ = is_next ? (self->place_ + 1) % self->items_.items().size() : 0;
          return is_next ? current : None();
        }));
  }

 private:
  Value items_;
  uint32_t depth_;
  size_t place_ = 0;
};

Value cycler(Context&, Arguments arguments) {
  if (!arguments.named.empty()) throw Raised("cycler() takes no keyword arguments");
  if (arguments.positional.empty()) throw Raised("at least one item has to be provided");
  return ObjectPointer(std::make_shared<Cycler>(Value::tuple(std::move(arguments.positional))));
}

Value lipsum(Context&, Arguments) { throw Raised("lipsum() is not supported in chat templates"); }

}  // namespace

Value find_function(Context& context, std::string_view name) {
  static const std::map<std::string_view, FunctionBody> table = {
      {"raise_exception", raise},    {"strftime_now", time_now}, {"range", range},   {"dict", dict},
      {"namespace", make_namespace}, {"joiner", joiner},         {"cycler", cycler}, {"lipsum", lipsum}};
  const auto found = table.find(name);
  if (found == table.end()) return {};
  return ObjectPointer(
      std::make_shared<Function>(std::string(name), [context = &context, body = found->second](Arguments arguments) {
        return body(*context, std::move(arguments));
      }));
}

}  // namespace rankfold::jinja
