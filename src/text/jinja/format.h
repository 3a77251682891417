// Python's two ways to fill in values: "%s" % x and "{}".format(x).
#pragma once

#include "text/jinja/object.h"

namespace rankfold::jinja {

Text format_percent(const Text& format, const Value& values);
Text format_braces(const Text& format, const Arguments& values);

}  // namespace rankfold::jinja
