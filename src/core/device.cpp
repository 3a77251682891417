#include "core/device.h"

#include "core/check.h"

#include <algorithm>
#include <string_view>

namespace rankfold {

std::optional<at::Device> resolve_device(const std::string& name) {
  if (name == "auto") return std::nullopt;
  if (name == "cpu") return at::Device(at::kCPU);
  const std::string_view rest = std::string_view(name).substr(std::min<size_t>(name.size(), 4));
  const bool numbered = rest.size() > 1 && rest.size() < 4 && rest[0] == ':' &&
                        rest.find_first_not_of("0123456789", 1) == std::string_view::npos;
  if (!name.starts_with("cuda") || !(rest.empty() || numbered))
    fail("device: expected auto, cpu, cuda or cuda:N, got \"", name, "\"");
  const int index = numbered ? std::stoi(std::string(rest.substr(1))) : 0;
  return at::Device(at::kCUDA, static_cast<at::DeviceIndex>(index));
}

}  // namespace rankfold
