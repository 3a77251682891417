// Rows of token ids and labels, stored contiguously: in memory, or in a file that is read on access.
#pragma once

#include "core/checksum.h"
#include "core/file.h"
#include "core/write.h"
#include "rankfold/dataset.h"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace rankfold {

// Memory: 8 bytes for each row; in-memory rows take another 4 bytes for each token.
class TokenStore {
 public:
  struct Summary {
    DatasetReport report = {};
    uint64_t fingerprint = 0;
  };

  // Opens a file that TokenWriter wrote for `key`, and reads all of it once to check it. Throws Error with the reason
  // for another kind of file, a damaged file, or another key.
  static TokenStore open(const std::filesystem::path& path, const std::string& key);
  // Whether an earlier version of Rankfold wrote the file, in its own format.
  static bool is_of_another_version(const std::filesystem::path& path);

  int64_t size() const { return static_cast<int64_t>(rows_.size()) - 1; }
  Example operator[](int64_t index) const;  // thread safe
  int64_t length(int64_t index) const;      // number of tokens
  int64_t number(int64_t index) const;      // number of the row in its data file, from 1
  const Summary& summary() const { return summary_; }

 private:
  friend class TokenWriter;
  // A row is its number in the data file and then its ids. kLearnt is set in an id whose label is the same id. If a
  // label is neither the id nor kIgnoreIndex, the labels follow the ids as separate words.
  using Words = std::vector<uint32_t>;
  static constexpr uint32_t kLearnt = uint32_t{1} << 31;
  static constexpr size_t kPage = 1 << 18;  // words written at a time

  struct Row {
    uint64_t number, begin, length;  // the words of its number and of its first id; tokens
    bool has_labels;
  };
  Row row(int64_t index) const;
  void read(uint64_t begin, std::span<uint32_t> words) const;

  Summary summary_;
  // For each row, twice its first word, plus 1 if labels follow its ids. One more entry for the end.
  std::vector<uint64_t> rows_ = {0};
  std::vector<Words> pages_;  // in memory: all but the last have kPage words
  std::shared_ptr<const File> file_;
};

// Builds a TokenStore from rows in order. Memory is bounded, except for the rows of a store in memory.
class TokenWriter {
 public:
  TokenWriter() = default;                                                                        // in memory
  TokenWriter(const std::filesystem::path& path, const std::string& key, const Stop& stop = {});  // by AtomicFile

  void append(int64_t number, std::span<const int32_t> ids, std::span<const int32_t> labels);
  TokenStore finish(const TokenStore::Summary& summary);  // the complete file appears under its name

 private:
  void put(uint32_t word);
  void flush();
  void write(std::span<const std::byte> bytes);

  TokenStore store_;
  TokenStore::Words page_;
  uint64_t words_ = 0;
  std::optional<AtomicFile> file_;
  std::string key_;
  uint64_t checksum_ = kChecksumSeed;
};

}  // namespace rankfold
