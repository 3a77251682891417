#include "core/device.h"

#include "core/check.h"

#include <algorithm>
#include <string_view>

namespace rankfold {

at::Device resolve_device(const std::string& name) {
  if (name == "auto" || name == "cpu") return at::kCPU;
  const std::string_view rest = std::string_view(name).substr(std::min<size_t>(name.size(), 4));
  const bool numbered = rest.size() > 1 && rest.size() < 4 && rest[0] == ':' &&
                        rest.find_first_not_of("0123456789", 1) == std::string_view::npos;
  if (!name.starts_with("cuda") || !(rest.empty() || numbered))
    fail("device: expected auto, cpu, cuda or cuda:N, got \"", name, "\"");
  throw Error(
      ExitCode::kNoDevice,
      join("device: ", name, " was asked for, but this build of Rankfold computes on the CPU only; use cpu or auto"));
}

}  // namespace rankfold
