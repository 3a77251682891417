#include "text/jinja/object.h"

#include "text/jinja/library.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/unicode.h"

#include <algorithm>

namespace rankfold::jinja {

std::optional<Value> Arguments::take_named(std::string_view name) {
  spend(named.size() / 16);
  const auto found = std::find_if(named.begin(), named.end(), [&](const auto& entry) { return entry.first == name; });
  if (found == named.end()) return std::nullopt;
  Value value = std::move(found->second);
  named.erase(found);
  return value;
}

Bound::Bound(std::string_view function, Arguments arguments, std::initializer_list<const char*> names, size_t required)
    : function_(function), names_(names), values_(std::move(arguments.positional)) {
  if (values_.size() > names_.size())
    throw Raised(join(function, "() takes at most ", names_.size(), " arguments (", values_.size(), " given)"));
  const size_t given = values_.size();
  values_.resize(names_.size());
  for (auto& [name, value] : arguments.named) {
    const auto at = static_cast<size_t>(std::find(names_.begin(), names_.end(), name) - names_.begin());
    if (at == names_.size()) throw Raised(join(function, "() got an unexpected keyword argument '", name, "'"));
    if (at < given) throw Raised(join(function, "() got multiple values for argument '", name, "'"));
    values_[at] = std::move(value);
  }
  for (size_t k = 0; k < required; ++k)
    if (!has(k)) throw Raised(join(function, "() missing 1 required positional argument: '", names_[k], "'"));
}

int64_t Bound::integer(size_t parameter, int64_t otherwise) const {
  const Value& value = values_[parameter];
  if (value.is<Missing>()) return otherwise;
  if (const bool* boolean = value.get<bool>()) return *boolean ? 1 : 0;
  if (const int64_t* integer = value.get<int64_t>()) return *integer;
  throw Raised(join(function_, "(): ", names_[parameter], " must be an integer, not ", jinja::type_name(value)));
}

bool Bound::boolean(size_t parameter, bool otherwise) const {
  return has(parameter) ? truth(values_[parameter]) : otherwise;
}

Text Bound::text(size_t parameter, const Text& otherwise) const {
  const Value& value = values_[parameter];
  if (value.is<Missing>()) return otherwise;
  if (value.is_text()) return value.text();
  throw Raised(join(function_, "(): ", names_[parameter], " must be str, not ", jinja::type_name(value)));
}

bool Object::contains(const Value& item) {
  const IteratorPointer items = iterate();
  if (!items) throw Raised(join("argument of type '", type_name(), "' is not iterable"));
  for (Value other; items->next(other);)
    if (equal(other, item)) return true;
  return false;
}

Value Object::call(Arguments) { throw Raised(join("'", type_name(), "' object is not callable")); }

namespace {

class Indexed : public Iterator {
 public:
  Indexed(size_t count, std::function<Value(size_t)> at) : count_(count), at_(std::move(at)) {}
  bool next(Value& item) override {
    if (place_ == count_) return false;
    spend(1);
    item = at_(place_++);
    return true;
  }

 private:
  size_t count_, place_ = 0;
  std::function<Value(size_t)> at_;
};

class Filtered : public Iterator {
 public:
  Filtered(IteratorPointer from, std::function<bool(Value&)> keeps)
      : from_(std::move(from)), keeps_(std::move(keeps)) {}
  bool next(Value& item) override {
    while (from_->next(item))
      if (keeps_(item)) return true;
    return false;
  }

 private:
  IteratorPointer from_;
  std::function<bool(Value&)> keeps_;
};

class Characters : public Iterator {
 public:
  explicit Characters(Text text) : text_(std::move(text)) {}
  bool next(Value& item) override {
    if (place_ >= text_.size()) return false;
    spend(1);
    const size_t begin = place_;
    unicode::next_character(text_.view(), place_);
    item = text_.slice(begin, place_).as_safe(false);
    return true;
  }

 private:
  Text text_;
  size_t place_ = 0;
};

size_t checked_index(const Value& index, size_t count, std::string_view of) {
  const std::optional<int64_t> place = as_index(index);
  if (!place) throw Raised(join(of, " indices must be integers or slices, not ", type_name(index)));
  const int64_t at = *place < 0 ? *place + static_cast<int64_t>(count) : *place;
  return at < 0 || at >= static_cast<int64_t>(count) ? count : static_cast<size_t>(at);
}

}  // namespace

IteratorPointer iterate_indexed(size_t count, std::function<Value(size_t)> at) {
  return std::make_unique<Indexed>(count, std::move(at));
}

IteratorPointer filtered(IteratorPointer from, std::function<bool(Value&)> keeps) {
  return std::make_unique<Filtered>(std::move(from), std::move(keeps));
}

IteratorPointer iterate(const Value& value) {
  if (const auto* sequence = value.get<SequencePointer>())
    return iterate_indexed((*sequence)->items.size(), [s = *sequence](size_t k) { return s->items[k]; });
  if (const auto* mapping = value.get<MappingPointer>())
    return iterate_indexed((*mapping)->entries().size(), [m = *mapping](size_t k) { return m->entries()[k].first; });
  if (value.is_text()) return std::make_unique<Characters>(value.text());
  if (value.is<Undefined>()) return iterate_indexed(0, nullptr);
  if (const ObjectPointer* object = value.object())
    if (IteratorPointer items = (*object)->iterate()) return items;
  throw Raised(join("'", type_name(value), "' object is not iterable"));
}

bool is_iterable(const Value& value) {
  if (const ObjectPointer* object = value.object()) return (*object)->iterate() != nullptr;
  return value.is<SequencePointer>() || value.is_dict() || value.is_text() || value.is<Undefined>();
}

std::vector<Value> to_vector(const Value& value) {
  Charge charge(0);
  std::vector<Value> items;
  const IteratorPointer from = iterate(value);
  for (Value item; from->next(item);) {
    charge.add(sizeof(Value));
    items.push_back(std::move(item));
  }
  return items;
}

size_t length(const Value& value) {
  if (const auto* sequence = value.get<SequencePointer>()) return (*sequence)->items.size();
  if (value.is_text()) return value.text().length();
  if (value.is_dict()) return value.mapping().entries().size();
  if (value.is<Undefined>()) return 0;
  if (const ObjectPointer* object = value.object())
    if (const std::optional<size_t> count = (*object)->length()) return *count;
  throw Raised(join("object of type '", type_name(value), "' has no len()"));
}

class Generator::State {
 public:
  explicit State(std::function<IteratorPointer()> start) : start_(std::move(start)) {}
  bool next(Value& item) {
    const Level level;  // a generator may take from another
    if (start_) running_ = std::exchange(start_, nullptr)();
    return running_ && running_->next(item);
  }

 private:
  std::function<IteratorPointer()> start_;
  IteratorPointer running_;
};

Generator::Generator(std::function<IteratorPointer()> start, uint32_t depth, std::string type)
    : state_(std::make_shared<State>(std::move(start))), depth_(checked_depth(depth)), type_(std::move(type)) {}

IteratorPointer Generator::iterate() {
  class Shared : public Iterator {
   public:
    explicit Shared(std::shared_ptr<State> state) : state_(std::move(state)) {}
    bool next(Value& item) override { return state_->next(item); }

   private:
    std::shared_ptr<State> state_;
  };
  return std::make_unique<Shared>(state_);
}

Text Range::print() {
  std::string text = join("range(", start_, ", ", stop_);
  return step_ == 1 ? text + ")" : join(text, ", ", step_, ")");
}

Value Range::item(const Value& index) {
  if (!as_index(index)) return {};
  const size_t at = checked_index(index, count_, "range");
  return at < count_ ? this->at(at) : Value();
}

IteratorPointer Range::iterate() {
  return iterate_indexed(count_, [self = *this](size_t k) { return self.at(k); });
}

IteratorPointer Range::reversed() {
  return iterate_indexed(count_, [self = *this](size_t k) { return self.at(self.count_ - 1 - k); });
}

bool Range::equals(const Object& other) const {
  const auto* range = dynamic_cast<const Range*>(&other);
  return range != nullptr && range->count_ == count_ &&
         (count_ == 0 || (range->start_ == start_ && (count_ == 1 || range->step_ == step_)));
}

ObjectPointer Range::slice(int64_t start, int64_t step, int64_t count) const {
  const int64_t first = start_ + start * step_, stride = step * step_;
  return std::make_shared<Range>(first, first + count * stride, stride, static_cast<size_t>(count));
}

Value Range::attribute(std::string_view name) {
  if (name == "index" || name == "count")
    return jinja::attribute_only(Value::list(to_vector(ObjectPointer(std::make_shared<Range>(*this)))), name);
  if (name == "start") return start_;
  if (name == "stop") return stop_;
  return name == "step" ? Value(step_) : Value();
}

std::string View::type_name() const {
  return of_ == Of::kKeys ? "dict_keys" : of_ == Of::kValues ? "dict_values" : "dict_items";
}

Value View::at(size_t index) const {
  const auto& [key, value] = mapping_->entries()[index];
  return of_ == Of::kKeys ? key : of_ == Of::kValues ? value : Value::tuple({key, value});
}

Text View::print() {
  TextBuilder text;
  text.append(type_name() + "(");
  std::vector<Value> items;
  for (size_t k = 0; k < mapping_->entries().size(); ++k) items.push_back(at(k));
  text.append(repr(Value::list(std::move(items))));
  text.append(")");
  return text.build();
}

IteratorPointer View::iterate() {
  return iterate_indexed(*length(), [self = *this](size_t k) { return self.at(k); });
}

IteratorPointer View::reversed() {
  return iterate_indexed(*length(), [self = *this, last = *length() - 1](size_t k) { return self.at(last - k); });
}

size_t View::hash() const {
  if (of_ != Of::kValues) throw Raised("unhashable type: '" + type_name() + "'");
  return Object::hash();
}

bool View::equals(const Object& other) const {
  const auto* view = dynamic_cast<const View*>(&other);
  if (view == this) return true;
  if (view == nullptr || of_ == Of::kValues || view->of_ != of_) return false;
  const Mapping& theirs = *view->mapping_;
  return mapping_->entries().size() == theirs.entries().size() &&
         std::all_of(mapping_->entries().begin(), mapping_->entries().end(), [&](const Entry& entry) {
           const Value* const found = theirs.find(entry.first);
           return found != nullptr && (of_ == Of::kKeys || equal(entry.second, *found));
         });
}

Namespace::Namespace(std::vector<Entry> entries) {
  for (auto& [name, value] : entries) set(name.text(), std::move(value));
}

Text Namespace::print() {
  TextBuilder text;
  text.append("<Namespace ");
  text.append(is_printing_ ? Text("{...}") : entries_text());
  text.append(">");
  return text.build();
}

Text Namespace::entries_text() {
  is_printing_ = true;
  const std::unique_ptr<bool, void (*)(bool*)> after(&is_printing_, [](bool* flag) { *flag = false; });
  return repr(Value::dict(entries_));
}

Value Namespace::attribute(std::string_view name) {
  const auto found = places_.find(std::string(name));
  return found == places_.end() ? Value() : entries_[found->second].second;
}

void Namespace::set(const Text& name, Value value) {
  const auto [found, is_new] = places_.try_emplace(name.string(), entries_.size());
  if (is_new) {
    charge_.add(sizeof(Entry) + 64);
    entries_.emplace_back(name, std::move(value));
  } else {
    entries_[found->second].second = std::move(value);
  }
}

}  // namespace rankfold::jinja
