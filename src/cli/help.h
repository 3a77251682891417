// The text of --help.
#pragma once

#include "cli/app.h"

#include <string>

namespace rankfold {

// The fields under their sections, no line longer than 100 columns.
std::string help_text(const AppSpec& spec, const Fields& fields);

}  // namespace rankfold
