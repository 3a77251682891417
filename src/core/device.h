// Which device a run computes on.
#pragma once

#include <c10/core/Device.h>

#include <string>

namespace rankfold {

// "auto", "cpu", "cuda" or "cuda:N". UserError for another word, Error(kNoDevice) for a device that is not
// there.
at::Device resolve_device(const std::string& name);

}  // namespace rankfold
