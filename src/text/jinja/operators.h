// Python's operators.
#pragma once

#include "core/check.h"
#include "text/jinja/object.h"

#include <optional>

namespace rankfold::jinja {

enum class Operator { kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower };
enum class Comparison { kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual, kIn, kNotIn };

// All throw Raised where Python raises.
Value calculate(Operator op, const Value& a, const Value& b);
Value negate(const Value& value);
Value plus(const Value& value);
bool compare(Comparison op, const Value& a, const Value& b);
bool contains(const Value& container, const Value& item);
bool less(const Value& a, const Value& b);

// Integers and booleans. Those beyond 64 bits become the first or last of them.
std::optional<int64_t> as_index(const Value& value);

// container[index] where that is a value: missing where it raises what environments turn into Undefined.
Value item_of(const Value& container, const Value& index);
// Missing bounds stand for those not written; None too.
Value slice(const Value& container, const Value& start, const Value& stop, const Value& step);

void refuse_undefined(const Value& value);

}  // namespace rankfold::jinja
