#include "core/file.h"

#include "core/checksum.h"
#include "core/descriptor.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cctype>
#include <new>

namespace rankfold {
namespace fs = std::filesystem;
namespace {

const char* kind_of(mode_t mode) {
  if (S_ISREG(mode)) return "a file";
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

// What is wrong with a name that somebody gave us, not with the disk or the machine.
bool is_about_the_name(int number) {
  return number == ENOENT || number == ENOTDIR || number == ELOOP || number == EACCES || number == ENAMETOOLONG;
}

// Mappings by address, for a handler of SIGBUS: it may neither lock nor allocate. Whoever finds no free place goes
// without.
std::array<std::atomic<const Mapping*>, 4096> mappings;

}  // namespace

// Looks before it opens, since opening a device may already do something, and opens without blocking, since a FIFO may
// have taken the file's place in between.
OpenFile open_regular(const fs::path& path) {
  struct stat status;
  if (::stat(path.c_str(), &status) != 0) {
    if (is_about_the_name(errno)) fail(path.string(), ": expected a file, got nothing (", std::strerror(errno), ")");
    call_failed(path, "cannot be looked at");
  }
  if (!S_ISREG(status.st_mode)) fail(path.string(), ": expected a file, got ", kind_of(status.st_mode));
  const int fd = retried([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); });
  if (fd < 0) {
    if (is_about_the_name(errno)) fail(path.string(), ": cannot be read: ", std::strerror(errno));
    call_failed(path, "cannot be read");
  }
  Descriptor descriptor(fd);
  if (::fstat(fd, &status) != 0) call_failed(path, "cannot be read");
  if (!S_ISREG(status.st_mode)) fail(path.string(), ": expected a file, got ", kind_of(status.st_mode));
  return {std::move(descriptor), static_cast<uint64_t>(status.st_size)};
}

// Reads up to `size` bytes; fewer where the file has shrunk.
size_t read_some(int fd, char* to, size_t size, const fs::path& path) {
  size_t done = 0;
  while (done < size) {
    const ssize_t got = retried([&] { return ::read(fd, to + done, size - done); });
    if (got < 0) call_failed(path, "reading failed");
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

std::string what_stands_at(const fs::path& path) {
  struct stat status;
  if (::stat(path.c_str(), &status) == 0) return kind_of(status.st_mode);
  const int number = errno;
  const bool leads_nowhere = number == ENOENT || number == ELOOP;
  if (leads_nowhere && ::lstat(path.c_str(), &status) == 0 && S_ISLNK(status.st_mode)) return "a link to nothing";
  if (number == ENOENT || number == ENOTDIR) return "nothing";
  if (is_about_the_name(number)) fail(path.string(), ": cannot be looked at: ", std::strerror(number));
  errno = number;
  call_failed(path, "cannot be looked at");
}

bool is_mount_point(const fs::path& folder) {
  struct statx status = {};
  return ::statx(AT_FDCWD, folder.c_str(), 0, 0, &status) == 0 && (status.stx_attributes & STATX_ATTR_MOUNT_ROOT);
}

std::string foreign_kind(std::string_view start) {
  if (start.empty()) return "an empty file";
  if (start.starts_with("version https://git-lfs"))
    return "a git-lfs pointer (the file itself was not downloaded: run `git lfs pull`)";
  if (start.starts_with("PK\x03\x04") || (start.size() > 1 && start[0] == '\x80' && start[1] >= 2 && start[1] <= 5))
    return "a pickle or zip archive, as torch.save() writes it";
  const size_t text = start.find_first_not_of(" \t\r\n");
  std::string head(text == std::string_view::npos ? "" : start.substr(text, 9));
  for (char& c : head) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (head.starts_with("<!doctype") || head.starts_with("<html")) return "an HTML page";
  return "";
}

std::shared_ptr<const Mapping> Mapping::open(const fs::path& path) {
  const OpenFile file = open_regular(path);
  if (file.size == 0) fail(path.string(), ": expected data, got an empty file");
  std::shared_ptr<Mapping> result(new Mapping);
  void* mapped = ::mmap(nullptr, file.size, PROT_READ, MAP_SHARED, file.descriptor.get(), 0);
  result->mapped_ = mapped != MAP_FAILED;
  if (!result->mapped_) {  // some network and FUSE file systems cannot map
    mapped = ::operator new (file.size, std::align_val_t{64});
    result->data_ = static_cast<const std::byte*>(mapped);
    if (read_some(file.descriptor.get(), static_cast<char*>(mapped), file.size, path) != file.size)
      storage_fail(path.string(), ": became shorter while it was read");
  }
  result->data_ = static_cast<const std::byte*>(mapped);
  result->size_ = file.size;
  result->path_ = path.string();
  for (auto& place : mappings) {
    const Mapping* none = nullptr;
    if (result->mapped_ && place.compare_exchange_strong(none, result.get())) break;
  }
  return result;
}

const char* mapped_file_at(const void* address) {
  for (const auto& place : mappings) {
    const Mapping* mapping = place.load();
    if (mapping && address >= mapping->data() && address < mapping->data() + mapping->size()) return mapping->path();
  }
  return nullptr;
}

Mapping::~Mapping() {
  for (auto& place : mappings) {
    const Mapping* mine = this;
    if (mapped_ && place.compare_exchange_strong(mine, nullptr)) break;
  }
  if (mapped_)
    ::munmap(const_cast<std::byte*>(data_), size_);
  else if (data_)
    ::operator delete (const_cast<std::byte*>(data_), std::align_val_t{64});
}

void Mapping::forget(uint64_t begin, uint64_t end) const {
  if (!mapped_) return;  // memory of our own would be lost, not read again
  const uint64_t page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  begin = (begin + page - 1) / page * page;
  end = end == size_ ? end : end / page * page;
  if (begin < end) ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

// A page that is read brings in those around it, and one at the end is not whole yet: each step begins before the end of
// the last.
void FilePass::forget(uint64_t position) {
  constexpr uint64_t kAround = 128 << 10;
  file_->forget(forgotten_ - std::min(forgotten_, kAround), position);
  forgotten_ = position;
}

std::shared_ptr<const File> File::open(const fs::path& path) {
  OpenFile file = open_regular(path);
  return std::shared_ptr<const File>(new File(path, file.descriptor.release(), file.size));
}

File::~File() { ::close(fd_); }

void File::read(uint64_t begin, std::span<std::byte> to) const {
  while (!to.empty()) {
    const ssize_t got = retried([&] { return ::pread(fd_, to.data(), to.size(), static_cast<off_t>(begin)); });
    if (got < 0) call_failed(path_, "reading failed");
    if (got == 0) storage_fail(path_.string(), ": became shorter while it was read");
    begin += static_cast<uint64_t>(got);
    to = to.subspan(static_cast<size_t>(got));
  }
}

uint64_t checksum_of(const File& file, uint64_t size) {
  std::vector<std::byte> buffer(std::min<uint64_t>(size, 1 << 20));
  uint64_t sum = kChecksumSeed;
  for (uint64_t at = 0; at < size; at += buffer.size()) {
    const std::span part(buffer.data(), std::min<uint64_t>(buffer.size(), size - at));
    file.read(at, part);
    sum = checksum64(part, sum);
  }
  return sum;
}

std::string read_text(const fs::path& path, uint64_t largest_bytes) {
  const OpenFile file = open_regular(path);
  if (file.size > largest_bytes) fail(path.string(), ": expected at most ", largest_bytes, " bytes, got ", file.size);
  std::string text(file.size, '\0');
  text.resize(read_some(file.descriptor.get(), text.data(), text.size(), path));
  return text;
}

}  // namespace rankfold
