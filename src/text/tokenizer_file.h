// tokenizer.json as it stands: the long lists apart, the rest as JSON.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace rankfold {

struct TokenizerFile {
  std::string name;                                         // for errors
  nlohmann::json settings;                                  // without model.vocab and model.merges
  std::vector<std::pair<std::string, int32_t>> vocabulary;  // pieces and their ids
  std::vector<std::pair<std::string, std::string>> merges;  // the first to be made first
};

// A stranger's file costs time and memory in proportion to its size, which is bounded. Throws UserError for what is no
// tokenizer.json; values other than the lists are not looked at.
TokenizerFile read_tokenizer_file(const std::filesystem::path& path);

// Gemma 3's file has 33 MB with 262,144 pieces and 514,906 merges.
inline constexpr uint64_t kLargestTokenizerFile = 96 << 20;
inline constexpr int32_t kMostPieces = 1 << 20;
inline constexpr size_t kMostMerges = 1 << 21;
inline constexpr size_t kLongestPiece = 2048;  // bytes; runs of dashes have some 400

}  // namespace rankfold
