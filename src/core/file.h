// The only file of the product that opens files for writing. What is written appears whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
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
};

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

std::string read_text(const std::filesystem::path& path, uint64_t largest_bytes = 256u << 20);

// "a folder", "a FIFO", "a device", "a socket", "nothing" or, for a regular file, "a file".
std::string what_stands_at(const std::filesystem::path& path);

// What a file's first bytes say when they are none of our formats: "a git-lfs pointer (...)", "a pickle (...)", "an
// HTML page", "an empty file"; "" otherwise.
std::string foreign_kind(std::string_view start);

// Writes to `target`.tmp in the same folder; commit() fsyncs, renames and fsyncs the folder. Not committed: no trace.
// A second writer of the same target, in this process or another, waits in its constructor until the first is done.
// Failures throw Error(kStorage) with path and errno's text.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path target);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  const std::filesystem::path& path() const { return temporary_; }  // until commit()
  void commit();

 private:
  std::filesystem::path target_, temporary_;
  int fd_ = -1;
};
void write_text(const std::filesystem::path& path, std::string_view text);  // AtomicFile in one call

// A folder that appears whole: fill `path()` (target.tmp, emptied first if a crash left one), then commit() fsyncs
// every file in it and the folders, renames it to target and fsyncs the parent. Not committed: removed.
class AtomicFolder {
 public:
  explicit AtomicFolder(std::filesystem::path target);
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;
  const std::filesystem::path& path() const { return temporary_; }
  void commit();  // the target must not exist, or be an empty folder

 private:
  std::filesystem::path target_, temporary_;
  bool committed_ = false;
};

// Creates a folder and the parents it lacks. With this object those that were created go again if nothing lies in them:
// what fails leaves no trace.
class NewFolder {
 public:
  explicit NewFolder(const std::filesystem::path& path);
  ~NewFolder();
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;

 private:
  std::vector<std::filesystem::path> created_;  // the deepest first
};

// Adds one line to a log, opened and closed at each call so that a reader sees whole lines.
void append_line(const std::filesystem::path& path, std::string_view line);
void copy_atomically(const std::filesystem::path& from, const std::filesystem::path& to);  // through AtomicFile
// Creates the folder (and parents) and proves that it can be written to; Error(kStorage) otherwise.
void prepare_folder(const std::filesystem::path& path);

}  // namespace rankfold
