// Files that are read. Nothing here blocks on what is no file, or believes a size that the file does not have.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rankfold {

// A regular file (or a symbolic link to one) mapped read-only. Throws UserError that names what stands there instead
// (nothing, folder, device, FIFO, empty file); never blocks. Falls back to reading where mapping is not possible.
class Mapping {
 public:
  static std::shared_ptr<const Mapping> open(const std::filesystem::path& path);
  const std::byte* data() const { return data_; }
  uint64_t size() const { return size_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const char* path() const { return path_.c_str(); }
  // Lets the whole pages between these offsets leave memory until they are read again.
  void forget(uint64_t begin, uint64_t end) const;
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

 private:
  Mapping() = default;
  const std::byte* data_ = nullptr;
  uint64_t size_ = 0;
  bool mapped_ = false;
  std::string path_;
};

// The file that is mapped at this address; null where none is. Touching what a mapped file has lost by becoming shorter
// ends in SIGBUS: a handler may call this.
const char* mapped_file_at(const void* address);

// One pass over a mapping, from its begin to its end: what lies behind leaves memory a few megabytes at a time, as pages
// that were touched count as the process's memory while they stay mapped.
class FilePass {
 public:
  static constexpr uint64_t kStep = 4 << 20;
  explicit FilePass(const Mapping& file) : file_(&file) {}
  void reached(uint64_t position) {
    if (position >= forgotten_ + kStep) forget(position);
  }

 private:
  void forget(uint64_t position);
  const Mapping* file_;
  uint64_t forgotten_ = 0;
};

// A regular file that is read at any place. Unlike a mapping's, what was read is no memory of the process, and a file
// that shrinks is an error instead of a signal. Throws as Mapping does. Thread safe.
class File {
 public:
  static std::shared_ptr<const File> open(const std::filesystem::path& path);
  uint64_t size() const { return size_; }
  void read(uint64_t begin, std::span<std::byte> to) const;  // Error(kStorage) where the file ends before
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

 private:
  File(std::filesystem::path path, int fd, uint64_t size) : path_(std::move(path)), fd_(fd), size_(size) {}
  std::filesystem::path path_;
  int fd_;
  uint64_t size_;
};

uint64_t checksum_of(const File& file, uint64_t size);  // of its first bytes: checksum64

std::string read_text(const std::filesystem::path& path, uint64_t largest_bytes = 256u << 20);

// "a folder", "a FIFO", "a device", "a socket", for a regular file "a file"; "nothing" only where there surely is none, "a
// link to nothing" where a name leads there, as to a disk that is not mounted now. UserError or StorageError where the
// system does not say.
std::string what_stands_at(const std::filesystem::path& path);

bool is_mount_point(const std::filesystem::path& folder);  // false where the system does not say

// What a file's first bytes say when they are none of our formats: "a git-lfs pointer (...)", "a pickle (...)", "an
// HTML page", "an empty file"; "" otherwise.
std::string foreign_kind(std::string_view start);

}  // namespace rankfold
