// The text of --help.
#pragma once

#include "cli/app.h"

#include <string>

namespace rankfold {

// The fields under their sections, in lines as wide as the terminal, at most 100 columns.
std::string help_text(const AppSpec& spec, const Fields& fields);

}  // namespace rankfold
