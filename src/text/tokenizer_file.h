// The parsed tokenizer.json: the two long lists separately, the rest as JSON.
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
  std::vector<std::pair<std::string, std::string>> merges;  // in the order of priority
};

// Reads an untrusted file in time and memory proportional to its size, which is limited. Throws UserError for a file
// that is not a tokenizer.json. It does not check values other than the lists.
TokenizerFile read_tokenizer_file(const std::filesystem::path& path);

// Gemma 3's file has 33 MB with 262,144 pieces and 514,906 merges.
inline constexpr uint64_t kLargestTokenizerFile = 96 << 20;
inline constexpr int32_t kMostPieces = 1 << 20;
inline constexpr size_t kMostMerges = 1 << 21;
inline constexpr size_t kLongestPiece = 2048;  // bytes; runs of dashes have some 400

}  // namespace rankfold
