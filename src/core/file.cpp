#include "core/file.h"

#include "core/check.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

namespace rankfold {
namespace fs = std::filesystem;
namespace {

std::string reason() { return std::strerror(errno); }

// A failed call on a file that exists and may be read is the disk's fault, not the user's.
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

const char* kind_of(mode_t mode) {
  if (S_ISREG(mode)) return "a file";
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

struct OpenFile {
  Descriptor descriptor;
  uint64_t size;
};

// Looks before it opens, since opening a device may already do something, and opens without blocking, since a FIFO may
// have taken the file's place in between.
OpenFile open_regular(const fs::path& path) {
  struct stat status;
  if (::stat(path.c_str(), &status) != 0) fail(path.string(), ": expected a file, got nothing (", reason(), ")");
  if (!S_ISREG(status.st_mode)) fail(path.string(), ": expected a file, got ", kind_of(status.st_mode));
  const int fd = retried([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); });
  if (fd < 0) fail(path.string(), ": cannot be read: ", reason());
  Descriptor descriptor(fd);
  if (::fstat(fd, &status) != 0) storage_fail(path.string(), ": cannot be read: ", reason());
  if (!S_ISREG(status.st_mode)) fail(path.string(), ": expected a file, got ", kind_of(status.st_mode));
  return {std::move(descriptor), static_cast<uint64_t>(status.st_size)};
}

// Reads up to `size` bytes; fewer where the file has shrunk.
size_t read_some(int fd, char* to, size_t size, const fs::path& path) {
  size_t done = 0;
  while (done < size) {
    const ssize_t got = retried([&] { return ::read(fd, to + done, size - done); });
    if (got < 0) storage_fail(path.string(), ": reading failed: ", reason());
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

void write_all(int fd, const char* from, size_t size, const fs::path& path) {
  while (size > 0) {
    const ssize_t put = retried([&] { return ::write(fd, from, size); });
    if (put < 0) storage_fail(path.string(), ": writing failed: ", reason());
    from += put;
    size -= static_cast<size_t>(put);
  }
}

void close_checked(int fd, const fs::path& path) {
  if (::close(fd) != 0 && errno != EINTR) storage_fail(path.string(), ": closing failed: ", reason());
}

// A file of our own to write to, from its begin. The lock keeps two writers of it apart; it ends with the descriptor, so
// a crash leaves none. Whoever has waited for it finds the name taken away or given to another file, and starts again.
// Where a file system has no locks there is none.
Descriptor create_locked(const fs::path& path) {
  for (;;) {
    Descriptor file(retried([&] { return ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666); }));
    if (file.get() < 0) storage_fail(path.string(), ": cannot be created: ", reason());
    retried([&] { return ::flock(file.get(), LOCK_EX); });
    struct stat ours, named;
    if (::fstat(file.get(), &ours) != 0) storage_fail(path.string(), ": cannot be created: ", reason());
    if (::lstat(path.c_str(), &named) != 0 || ours.st_ino != named.st_ino || ours.st_dev != named.st_dev) continue;
    if (retried([&] { return ::ftruncate(file.get(), 0); }) != 0)
      storage_fail(path.string(), ": cannot be emptied: ", reason());
    return file;
  }
}

// A name is only on the disk once its folder is.
void sync_path(const fs::path& path, int flags) {
  const Descriptor descriptor(retried([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags); }));
  if (descriptor.get() < 0) storage_fail(path.string(), ": cannot be opened: ", reason());
  // Some file systems cannot sync a folder and say EINVAL.
  if (retried([&] { return ::fsync(descriptor.get()); }) != 0 && !(flags == O_DIRECTORY && errno == EINVAL))
    storage_fail(path.string(), ": fsync failed: ", reason());
}

void rename_file(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0)
    storage_fail(to.string(), ": renaming ", from.filename().string(), " to it failed: ", reason());
}
void rename_checked(const fs::path& from, const fs::path& to) {
  rename_file(from, to);
  sync_path(to.parent_path(), O_DIRECTORY);
}

// Absolute, so that a later change of the working folder does no harm, and without a trailing slash, so that ".tmp" can
// be appended.
fs::path plain(const fs::path& path) {
  fs::path absolute = fs::absolute(path).lexically_normal();
  return absolute.has_filename() ? absolute : absolute.parent_path();
}

// Where a file of this name would be written: at the end of its links, even if nothing stands there yet.
fs::path resolved(const fs::path& path) {
  fs::path target = fs::absolute(path);
  std::error_code error;
  for (int links = 0; links < 40; ++links) {
    if (fs::path canonical = fs::weakly_canonical(target, error); !error) target = std::move(canonical);
    const fs::path next = fs::read_symlink(target, error);  // a dangling one
    if (error) break;
    target = target.parent_path() / next;
  }
  return plain(target);
}

void make_folders(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) storage_fail(path.string(), ": cannot create the folder: ", error.message());
}

}  // namespace

std::string what_stands_at(const fs::path& path) {
  struct stat status;
  return ::stat(path.c_str(), &status) == 0 ? kind_of(status.st_mode) : "nothing";
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
  return result;
}

Mapping::~Mapping() {
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
    if (got < 0) storage_fail(path_.string(), ": reading failed: ", reason());
    if (got == 0) storage_fail(path_.string(), ": became shorter while it was read");
    begin += static_cast<uint64_t>(got);
    to = to.subspan(static_cast<size_t>(got));
  }
}

std::string read_text(const fs::path& path, uint64_t largest_bytes) {
  const OpenFile file = open_regular(path);
  if (file.size > largest_bytes) fail(path.string(), ": expected at most ", largest_bytes, " bytes, got ", file.size);
  std::string text(file.size, '\0');
  text.resize(read_some(file.descriptor.get(), text.data(), text.size(), path));
  return text;
}

AtomicFile::AtomicFile(fs::path target) : target_(resolved(target)), temporary_(target_) {
  const std::string there = what_stands_at(target_);
  if (there != "nothing" && there != "a file") fail(target.string(), ": expected a file name, got ", there);
  temporary_ += ".tmp";
  fd_ = create_locked(temporary_).release();
}

// The name goes before the lock, here as in commit(): the next writer must not find this file under it.
AtomicFile::~AtomicFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  if (fd_ >= 0) ::close(fd_);
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  write_all(fd_, reinterpret_cast<const char*>(bytes.data()), bytes.size(), temporary_);
}

void AtomicFile::write(std::string_view text) { write(std::as_bytes(std::span(text))); }

void AtomicFile::commit() {
  if (retried([&] { return ::fsync(fd_); }) != 0) storage_fail(temporary_.string(), ": fsync failed: ", reason());
  rename_file(temporary_, target_);
  temporary_.clear();  // from here on the name may be another writer's
  sync_path(target_.parent_path(), O_DIRECTORY);
  close_checked(std::exchange(fd_, -1), target_);
}

void write_text(const fs::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

AtomicFolder::AtomicFolder(fs::path target) : target_(plain(target)), temporary_(target_) {
  temporary_ += ".tmp";
  std::error_code error;
  fs::remove_all(temporary_, error);
  if (error) storage_fail(temporary_.string(), ": cannot be emptied: ", error.message());
  make_folders(temporary_);
}

AtomicFolder::~AtomicFolder() {
  std::error_code error;
  if (!committed_) fs::remove_all(temporary_, error);
}

void AtomicFolder::commit() {
  std::error_code error;
  for (fs::recursive_directory_iterator entry(temporary_, error), end; entry != end; entry.increment(error)) {
    if (entry->is_directory())
      sync_path(entry->path(), O_DIRECTORY);
    else if (entry->is_regular_file())
      sync_path(entry->path(), 0);
  }
  if (error) storage_fail(temporary_.string(), ": cannot be listed: ", error.message());
  sync_path(temporary_, O_DIRECTORY);
  rename_checked(temporary_, target_);
  committed_ = true;
}

NewFolder::NewFolder(const fs::path& path) {
  for (fs::path folder = plain(path); what_stands_at(folder) == "nothing"; folder = folder.parent_path())
    created_.push_back(folder);
  make_folders(plain(path));
}

NewFolder::~NewFolder() {
  for (const fs::path& folder : created_) ::rmdir(folder.c_str());  // refused where something lies in it
}

void append_line(const fs::path& path, std::string_view line) {
  const int fd = retried([&] { return ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666); });
  if (fd < 0) storage_fail(path.string(), ": cannot be opened: ", reason());
  const Descriptor descriptor(fd);
  const std::string text = std::string(line) + "\n";  // one write, so that lines of two writers do not mix
  write_all(fd, text.data(), text.size(), path);
}

void copy_atomically(const fs::path& from, const fs::path& to) {
  const OpenFile source = open_regular(from);
  AtomicFile target(to);
  std::vector<char> buffer(std::min<uint64_t>(source.size + 1, 1 << 20));
  while (const size_t got = read_some(source.descriptor.get(), buffer.data(), buffer.size(), from))
    target.write(std::string_view(buffer.data(), got));
  target.commit();
}

void prepare_folder(const fs::path& path) {
  const fs::path folder = plain(path);
  make_folders(folder);
  const fs::path probe = folder / join(".rankfold-probe-", ::getpid());
  const int fd = retried([&] { return ::open(probe.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666); });
  if (fd < 0) storage_fail(folder.string(), ": cannot be written to: ", reason());
  const Descriptor descriptor(fd);
  const ssize_t put = retried([&] { return ::write(fd, "x", 1); });
  const int why = errno;
  ::unlink(probe.c_str());
  if (put != 1) storage_fail(folder.string(), ": cannot be written to: ", std::strerror(why));
}

}  // namespace rankfold
