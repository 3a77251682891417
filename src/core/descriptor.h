// Shared by core/file.cpp and core/write.cpp: owned file descriptors, and system calls that a signal may interrupt.
#pragma once

#include "core/check.h"

#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <utility>

namespace rankfold {

// Throws StorageError for the call that just failed, with errno's text.
[[noreturn]] inline void call_failed(const std::filesystem::path& path, const std::string& what) {
  const int number = errno;
  storage_failed(number, path.string(), ": ", what, ": ", std::strerror(number));
}

template <class Call>
auto retried(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

struct OpenFile {
  Descriptor descriptor;
  uint64_t size;
};
OpenFile open_regular(const std::filesystem::path& path);  // throws as Mapping::open does

// Reads up to `size` bytes and returns their number, which is less where the file has become shorter.
size_t read_some(int fd, char* to, size_t size, const std::filesystem::path& path);

}  // namespace rankfold
