// Parses JSON, with errors that name the position.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace rankfold {

// Throws UserError "source:line:column: what" for broken JSON, for nesting deeper than `deepest` and for a duplicate
// key in an object. `first_line` and `first_column` give the position of the text in its source.
inline constexpr size_t kDeepestJson = 128;
nlohmann::json parse_json(std::string_view text, const std::string& source, size_t first_line = 1,
                          size_t deepest = kDeepestJson, size_t first_column = 1);

// The same, but objects keep the order of their keys. Finding a key then takes linear time.
nlohmann::ordered_json parse_ordered_json(std::string_view text, const std::string& source);

// A limit, because configs are untrusted and a parsed file takes up to 20 times its size in memory.
inline constexpr uint64_t kLargestConfig = 16 << 20;

// Parses a whole file. The error tells a folder, a device, a git-lfs pointer and a file that is too large.
nlohmann::json read_json(const std::filesystem::path& path, uint64_t largest_bytes = kLargestConfig);
nlohmann::ordered_json read_ordered_json(const std::filesystem::path& path, uint64_t largest_bytes = kLargestConfig);

// A value as an error line shows it: JSON on one line, cut when long.
std::string brief(const nlohmann::json& value);

// Returns the candidate with the smallest edit distance to `name`; empty where none is close or shares a letter. It
// compares only with names of a length near that of `name`, and with 2,000 at most, because an untrusted file may have
// millions.
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
