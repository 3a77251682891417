// The device names in settings.
#pragma once

#include <c10/core/Device.h>

#include <optional>
#include <string>

namespace rankfold {

// Parses "cpu", "cuda" (device 0) or "cuda:N"; nullopt for "auto". Throws UserError for another word. It does not check
// that the device exists: open_device (ops/open_cuda.h) does.
std::optional<at::Device> resolve_device(const std::string& name);

}  // namespace rankfold
