// Loops.
#include "text/jinja/interpreter.h"
#include "text/jinja/operators.h"

#include <utility>

namespace rankfold::jinja {
namespace {

// What `loop` is in the body of a for.
class LoopState : public Object, public std::enable_shared_from_this<LoopState> {
 public:
  LoopState(IteratorPointer items, std::optional<size_t> length, int64_t depth, std::function<Text(const Value&)> again)
      : items_(std::move(items)), length_(length), depth_(depth), again_(std::move(again)) {}

  bool next(Value& item) {
    if (!after_.is<Missing>())
      item = std::exchange(after_, Value());
    else if (is_over_ || !items_->next(item))
      return false;
    ++index_;
    before_ = std::exchange(current_, item);
    return true;
  }

  std::string type_name() const override { return "jinja2.runtime.LoopContext"; }
  Text print() override { return join("<LoopContext ", index_ + 1, "/", *length(), ">"); }
  bool is_callable() const override { return true; }
  std::optional<size_t> length() override {
    if (!length_) {  // of a generator: all its items must be asked for
      std::vector<Value> rest;
      for (Value item; items_->next(item);) rest.push_back(std::move(item));
      length_ = static_cast<size_t>(index_) + 1 + rest.size() + (after_.is<Missing>() ? 0 : 1);
      items_ = jinja::iterate(Value::list(std::move(rest)));
    }
    return length_;
  }
  Value call(Arguments arguments) override {
    const Bound bound("loop", std::move(arguments), {"iterable"}, 1);
    if (!again_) throw Raised("The loop must have the 'recursive' marker to be called recursively.");
    return again_(bound[0]);
  }

  Value attribute(std::string_view name) override {
    const auto count = [this] { return static_cast<int64_t>(*length()); };
    if (name == "index") return index_ + 1;
    if (name == "index0") return index_;
    if (name == "first") return index_ == 0;
    if (name == "last") return !peek();
    if (name == "length") return count();
    if (name == "revindex") return count() - index_;
    if (name == "revindex0") return count() - index_ - 1;
    if (name == "depth") return depth_ + 1;
    if (name == "depth0") return depth_;
    if (name == "previtem") return index_ == 0 ? Value::undefined("there is no previous item") : before_;
    if (name == "nextitem") return peek() ? after_ : Value::undefined("there is no next item");
    if (name == "cycle" || name == "changed")
      return ObjectPointer(std::make_shared<Function>(
          std::string(name), [self = shared_from_this(), is_cycle = name == "cycle"](Arguments arguments) {
            return is_cycle ? self->cycle(arguments) : self->changed(std::move(arguments));
          }));
    return {};
  }

  void clear() override { items_ = nullptr, current_ = before_ = after_ = changed_ = Value(), is_over_ = true; }

 private:
  bool peek() {
    if (after_.is<Missing>() && !is_over_ && !items_->next(after_)) {
      after_ = Value();
      is_over_ = true;
    }
    return !after_.is<Missing>();
  }
  Value cycle(const Arguments& arguments) const {
    if (arguments.positional.empty()) throw Raised("no items for cycling given");
    return arguments.positional[static_cast<size_t>(index_) % arguments.positional.size()];
  }
  Value changed(Arguments arguments) {
    Value now = Value::tuple(std::move(arguments.positional));
    if (!changed_.is<Missing>() && equal(changed_, now)) return false;
    changed_ = std::move(now);
    return true;
  }

  IteratorPointer items_;
  std::optional<size_t> length_;
  int64_t depth_, index_ = -1;
  Value current_, before_, after_, changed_;
  bool is_over_ = false;
  std::function<Text(const Value&)> again_;
};

}  // namespace

Text Interpreter::run_recursive(const Loop& loop, const FramePointer& outside, const Value& items, int64_t depth) {
  const Level level;
  if (depth > kDeepestCalls) throw Raised(join("loops call themselves deeper than ", kDeepestCalls, " levels"));
  TextBuilder out;
  run_loop(loop, outside, items, depth, out);
  return out.build();
}

Interpreter::Flow Interpreter::run_loop(const Loop& loop, const FramePointer& outside, const Value& given,
                                        int64_t depth, TextBuilder& out) {
  IteratorPointer items = iterate(given);
  std::optional<size_t> count;
  if (!loop.test && (given.object() == nullptr || (*given.object())->length())) count = length(given);
  const EnteredFrame inner(loop.frame, outside), test(loop.test_frame, outside);
  if (loop.test) {
    fill(*test.frame(), loop.test_frame);
    items = filtered(std::move(items), [&](Value& item) {
      assign(*loop.test_target, item, test.frame());
      return truth(evaluate(*loop.test, test.frame()));
    });
  }
  std::function<Text(const Value&)> again;
  if (loop.is_recursive)
    again = [this, &loop, outside, depth](const Value& more) { return run_recursive(loop, outside, more, depth + 1); };
  const auto state = std::make_shared<LoopState>(std::move(items), count, depth, std::move(again));
  const std::unique_ptr<LoopState, void (*)(LoopState*)> cleared(state.get(), [](LoopState* loop) { loop->clear(); });
  // Python code made by Jinja notes at the end of a body that the loop was not empty: break and continue pass that by.
  bool is_empty = true;
  for (Value item; state->next(item);) {
    spend(1);
    if (loop.has_loop) inner.frame()->slots[loop.loop_slot] = ObjectPointer(state);
    assign(*loop.target, std::move(item), inner.frame());
    fill(*inner.frame(), loop.frame);
    const Flow flow = run_body(loop.body, inner.frame(), out);
    if (flow == Flow::kBreak) break;
    if (flow == Flow::kNext) is_empty = false;
  }
  if (!is_empty || loop.otherwise.empty()) return Flow::kNext;
  const EnteredFrame otherwise(loop.otherwise_frame, outside);
  fill(*otherwise.frame(), loop.otherwise_frame);
  return run_body(loop.otherwise, otherwise.frame(), out);
}

}  // namespace rankfold::jinja
