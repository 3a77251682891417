#pragma once

#include <filesystem>
#include <system_error>

namespace rankfold {

// Whether both lead to one file or folder, by links too. Neither has to exist.
inline bool is_same_path(const std::filesystem::path& a, const std::filesystem::path& b) {
  std::error_code ignored;
  return std::filesystem::equivalent(a, b, ignored) ||
         std::filesystem::weakly_canonical(a, ignored) == std::filesystem::weakly_canonical(b, ignored);
}

}  // namespace rankfold
