// Which device a run computes on.
#pragma once

#include <c10/core/Device.h>

#include <optional>
#include <string>

namespace rankfold {

// The device that "cpu", "cuda" (device 0) or "cuda:N" names; none for "auto". UserError for another word. Whether the
// device is there is open_device's to find out (ops/open_cuda.h).
std::optional<at::Device> resolve_device(const std::string& name);

}  // namespace rankfold
