// Rows of token ids and labels, end to end: in memory, or in a file from which only what is asked for is read.
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

// 8 bytes of memory a row, and 4 a token where they lie in memory.
class TokenStore {
 public:
  struct Summary {
    DatasetReport report = {};
    uint64_t fingerprint = 0;
  };

  // A file that TokenWriter has written for `key`. Reads all of it once. Throws Error with the reason where it is no
  // such file, where it is damaged, or where it was written for another key.
  static TokenStore open(const std::filesystem::path& path, const std::string& key);
  // Whether an earlier version has written the file in a format of its own.
  static bool is_of_another_version(const std::filesystem::path& path);

  int64_t size() const { return static_cast<int64_t>(rows_.size()) - 1; }
  Example operator[](int64_t index) const;  // thread safe
  int64_t length(int64_t index) const;      // tokens of the row
  int64_t number(int64_t index) const;      // of the row in its file, from 1
  const Summary& summary() const { return summary_; }

 private:
  friend class TokenWriter;
  // The row's number in its file, then its ids, with kLearnt where an id is its own label. Where some label is neither
  // that nor kIgnoreIndex, the row's labels follow its ids as words of their own.
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
  std::vector<uint64_t> rows_ = {
      0};                     // twice the first word of each row, plus 1 if labels follow its ids; then of the end
  std::vector<Words> pages_;  // in memory: all but the last one hold kPage words
  std::shared_ptr<const File> file_;
};

// Takes rows in order and makes a store of them. Memory, but for what a store in memory holds, is bounded.
class TokenWriter {
 public:
  TokenWriter() = default;                                                                        // in memory
  TokenWriter(const std::filesystem::path& path, const std::string& key, const Stop& stop = {});  // a file: AtomicFile

  void append(int64_t number, std::span<const int32_t> ids, std::span<const int32_t> labels);
  TokenStore finish(const TokenStore::Summary& summary);  // a file stands under its name from now on, whole

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
