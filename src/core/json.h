// JSON text in, JSON value out, with errors that name the place.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace rankfold {

// Throws UserError "source:line:column: what" for broken JSON, for nesting deeper than `deepest` and for a key given
// twice in one object. `first_line` and `first_column` say where in its source the text begins.
inline constexpr size_t kDeepestJson = 128;
nlohmann::json parse_json(std::string_view text, const std::string& source, size_t first_line = 1,
                          size_t deepest = kDeepestJson, size_t first_column = 1);

// The same in the order of the text. Finding a key then takes time in proportion to their number.
nlohmann::ordered_json parse_ordered_json(std::string_view text, const std::string& source);

// Configs may be of strangers, and parsed a file takes up to 20 times its size.
inline constexpr uint64_t kLargestConfig = 16 << 20;

// The same for a whole file; says what stands there instead when it is a folder, device, git-lfs pointer or too large.
nlohmann::json read_json(const std::filesystem::path& path, uint64_t largest_bytes = kLargestConfig);
nlohmann::ordered_json read_ordered_json(const std::filesystem::path& path, uint64_t largest_bytes = kLargestConfig);

// A value as an error line shows it: JSON on one line, cut when long.
std::string brief(const nlohmann::json& value);

// The candidate that differs least from `name` (edit distance), empty when none is near or has a letter in common. Looks
// at names a person may have written, and not at all of a stranger's million.
template <class Names>
std::string nearest(const std::string& name, const Names& candidates);
size_t edit_distance(std::string_view a, std::string_view b);
std::string did_you_mean(const std::string& nearest_name);  // " (did you mean 'x'?)" or ""

template <class Names>
std::string nearest(const std::string& name, const Names& candidates) {
  constexpr size_t kLongest = 200, kMost = 2000;
  std::string best;
  if (name.size() > kLongest) return best;
  size_t distance = std::max<size_t>(2, name.size() / 3) + 1, looks = 0;
  for (const std::string& candidate : candidates) {
    if (candidate.size() >= name.size() + distance || name.size() >= candidate.size() + distance) continue;
    if (++looks > kMost) break;
    if (const size_t d = edit_distance(name, candidate); d < distance && d < std::min(name.size(), candidate.size()))
      distance = d, best = candidate;
  }
  return best;
}

}  // namespace rankfold
