// Reading files. Nothing here blocks on a FIFO or device, or trusts a size that the file does not have.
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

// A regular file (or a symbolic link to one) mapped read-only. Falls back to reading where mapping is not possible.
// Never blocks. Throws UserError that names what is there instead (nothing, folder, device, FIFO, empty file).
class Mapping {
 public:
  static std::shared_ptr<const Mapping> open(const std::filesystem::path& path);
  const std::byte* data() const { return data_; }
  uint64_t size() const { return size_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const char* path() const { return path_.c_str(); }
  // Releases the physical pages between these offsets until they are read again.
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

// Path of the file that is mapped at this address; null: none. Access beyond the end of a mapped file that was
// truncated raises SIGBUS. Safe to call in a signal handler.
const char* mapped_file_at(const void* address);

// Releases the pages of a mapping during one sequential pass, a few megabytes at a time. Otherwise touched pages count
// as memory of the process while they remain mapped.
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

// A regular file with random access by read(). Unlike a mapping, it adds no resident memory, and a truncated file is an
// error instead of a signal. Throws like Mapping. Thread safe.
class File {
 public:
  static std::shared_ptr<const File> open(const std::filesystem::path& path);
  uint64_t size() const { return size_; }
  void read(uint64_t begin, std::span<std::byte> to) const;  // StorageError where the file is shorter
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

 private:
  File(std::filesystem::path path, int fd, uint64_t size) : path_(std::move(path)), fd_(fd), size_(size) {}
  std::filesystem::path path_;
  int fd_;
  uint64_t size_;
};

uint64_t checksum_of(const File& file, uint64_t size);  // checksum64 of the first `size` bytes

std::string read_text(const std::filesystem::path& path, uint64_t largest_bytes = 256u << 20);

// What exists at a path: "a file" (regular), "a folder", "a FIFO", "a device", "a socket". "nothing" only where there
// certainly is nothing. "a link to nothing" for a link without a target, such as on a disk that is not mounted. Throws
// UserError or StorageError where the system does not tell.
std::string what_stands_at(const std::filesystem::path& path);

bool is_mount_point(const std::filesystem::path& folder);  // false where the system does not tell

// Recognises foreign formats by a file's first bytes: "a git-lfs pointer (...)", "a pickle (...)", "an HTML page", "an
// empty file"; "" otherwise.
std::string foreign_kind(std::string_view start);

}  // namespace rankfold
