#include "core/write.h"

#include "core/descriptor.h"
#include "core/file.h"
#include "core/peak_memory.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>

namespace rankfold {
namespace fs = std::filesystem;
namespace {

void write_all(int fd, const char* from, size_t size, const fs::path& path) {
  while (size > 0) {
    const ssize_t put = retried([&] { return ::write(fd, from, size); });
    if (put < 0) call_failed(path, "writing failed");
    from += put;
    size -= static_cast<size_t>(put);
  }
}

enum class Lock { kOurs, kAnothers, kNone };  // kNone: the file system has no locks, so there is nothing to wait for

Lock try_lock(int fd, const fs::path& path) {
  if (retried([&] { return ::flock(fd, LOCK_EX | LOCK_NB); }) == 0) return Lock::kOurs;
  if (errno == EWOULDBLOCK) return Lock::kAnothers;
  if (errno == ENOSYS || errno == EOPNOTSUPP || errno == EINVAL) return Lock::kNone;
  call_failed(path, "cannot be locked");
}

bool still_named(int fd, const fs::path& path) {
  struct stat ours, named;
  if (::fstat(fd, &ours) != 0) call_failed(path, "cannot be looked at");
  return ::lstat(path.c_str(), &named) == 0 && ours.st_ino == named.st_ino && ours.st_dev == named.st_dev;
}

// A file of our own to write to, from its begin. The lock keeps two writers of it apart; it ends with the descriptor, so
// a crash leaves none. Whoever has waited for it finds the name taken away or given to another file, and starts again.
// Where a file system has no locks there is none.
Descriptor create_locked(const fs::path& path, const Stop& stop) {
  for (;;) {
    Descriptor file(retried([&] { return ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666); }));
    if (file.get() < 0) call_failed(path, "cannot be created");
    while (try_lock(file.get(), path) == Lock::kAnothers) {
      leave_if(stop);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    if (!still_named(file.get(), path)) continue;
    if (retried([&] { return ::ftruncate(file.get(), 0); }) != 0) {
      const int number = errno;
      ::unlink(path.c_str());
      errno = number;
      call_failed(path, "cannot be emptied");
    }
    return file;
  }
}

// A name is only on the disk once its folder is.
void sync_folder(const fs::path& path) {
  const Descriptor descriptor(retried([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECTORY); }));
  if (descriptor.get() < 0) call_failed(path, "cannot be opened");
  // Some file systems cannot sync a folder and say EINVAL.
  if (retried([&] { return ::fsync(descriptor.get()); }) != 0 && errno != EINVAL) call_failed(path, "fsync failed");
}

void rename_checked(const fs::path& from, const fs::path& to) {
  if (retried([&] { return ::rename(from.c_str(), to.c_str()); }) != 0)
    call_failed(to, "renaming " + from.filename().string() + " to it failed");
}

// Absolute, so that a later change of the working folder does no harm, as the system follows links and "..", and without
// a trailing slash, so that a suffix can be appended.
fs::path plain(const fs::path& path) {
  std::error_code error;
  fs::path absolute = fs::weakly_canonical(fs::absolute(path), error);
  if (error) absolute = fs::absolute(path).lexically_normal();
  return absolute.has_filename() ? absolute : absolute.parent_path();
}

fs::path with_suffix(fs::path path, const char* suffix) { return path += suffix; }

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

// And the parents that it lacks, the deepest first; each name is on the disk then. What fails leaves none of them.
std::vector<fs::path> make_folders(const fs::path& path) {
  std::vector<fs::path> missing;
  for (fs::path folder = path; what_stands_at(folder) == "nothing"; folder = folder.parent_path())
    missing.push_back(folder);
  try {
    for (auto folder = missing.rbegin(); folder != missing.rend(); ++folder) {
      if (retried([&] { return ::mkdir(folder->c_str(), 0777); }) != 0 && errno != EEXIST)
        call_failed(*folder, "cannot create the folder");
      // One that may be written to and not listed cannot be synced.
      if (::access(folder->parent_path().c_str(), R_OK) == 0) sync_folder(folder->parent_path());
    }
  } catch (const StorageError&) {
    for (const fs::path& folder : missing) ::rmdir(folder.c_str());
    throw;
  }
  if (const std::string there = what_stands_at(path); there != "a folder")
    storage_failed(ENOTDIR, path.string(), ": cannot create the folder: ", there, " is in its place");
  return missing;
}

void remove_quietly(const fs::path& path) {
  std::error_code ignored;
  fs::remove_all(path, ignored);
}

}  // namespace

AtomicFile::AtomicFile(fs::path target, const Stop& stop)
    : target_(resolved(target)), temporary_(with_suffix(target_, kUnfinished)) {
  const std::string there = what_stands_at(target_);
  if (there != "nothing" && there != "a file") fail(target.string(), ": expected a file name, got ", there);
  fd_ = create_locked(temporary_, stop).release();
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
  if (retried([&] { return ::fsync(fd_); }) != 0) call_failed(temporary_, "fsync failed");
  rename_checked(temporary_, target_);
  temporary_.clear();  // from here on the name may be another writer's
  sync_folder(target_.parent_path());
  if (::close(std::exchange(fd_, -1)) != 0 && errno != EINTR) call_failed(target_, "closing failed");
}

void write_text(const fs::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

Staging::Staging(fs::path path) : path_(std::move(path)) {
  for (;;) {
    if (const std::string there = what_stands_at(path_); there != "a folder") remove_file(path_);
    make_folders(path_);
    Descriptor folder(retried([&] { return ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECTORY | O_NOFOLLOW); }));
    if (folder.get() < 0 && errno == ENOENT) continue;  // its last owner has just removed it
    if (folder.get() < 0) call_failed(path_, "cannot be opened");
    if (try_lock(folder.get(), path_) == Lock::kAnothers) fail(path_.string(), ": another process is writing there");
    if (!still_named(folder.get(), path_)) continue;
    std::error_code error;
    for (fs::directory_iterator entry(path_, error), end; !error && entry != end; entry.increment(error)) {
      fs::remove_all(entry->path(), error);
      if (error) break;
    }
    if (error) storage_failed(error.value(), path_.string(), ": cannot be emptied: ", error.message());
    fd_ = folder.release();
    return;
  }
}

Staging::~Staging() {
  if (!path_.empty()) remove_quietly(path_);
  ::close(fd_);
}

AtomicFolder::AtomicFolder(const fs::path& target)
    : target_(plain(target)), staging_(with_suffix(target_, kUnfinished)) {}

void AtomicFolder::commit() {
  sync_folder(path());
  rename_checked(path(), target_);
  staging_.keep();
  sync_folder(target_.parent_path());
}

void AtomicFolder::commit_over() {
  if (what_stands_at(target_) == "nothing") return commit();
  sync_folder(path());
  fs::path old = path();
  const auto exchange = [&] { return ::renameat2(AT_FDCWD, old.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE); };
  if (retried(exchange) != 0) {
    if (errno != EINVAL && errno != ENOSYS)
      call_failed(target_, "exchanging it with " + old.filename().string() + " failed");
    // Not on this file system. Between the two renames the old one stands under this name, and whoever finds only that
    // gives it its own back (checkpoint.cpp).
    old = with_suffix(target_, kAside);
    remove_quietly(old);
    rename_checked(target_, old);
    rename_checked(path(), target_);
  }
  staging_.keep();
  sync_folder(target_.parent_path());
  remove_quietly(old);
}

FileSet::FileSet(const fs::path& folder) : folder_(plain(folder)), staging_(folder_ / kStaging) {}

void FileSet::commit(const char* seal, std::string_view broken_seal, const std::vector<std::string>& obsolete) {
  std::error_code error;
  std::vector<fs::path> names;
  for (fs::directory_iterator entry(path(), error), end; !error && entry != end; entry.increment(error))
    if (entry->path().filename() != seal) names.push_back(entry->path().filename());
  if (error) storage_failed(error.value(), path().string(), ": cannot be listed: ", error.message());
  std::sort(names.begin(), names.end());
  write_text(folder_ / seal, broken_seal);
  for (const fs::path& name : names) rename_checked(path() / name, folder_ / name);
  for (const std::string& name : obsolete) remove_file(folder_ / fs::path(name).filename());
  sync_folder(folder_);
  rename_checked(path() / seal, folder_ / seal);
  sync_folder(folder_);
}

NewFolder::NewFolder(const fs::path& path) : created_(make_folders(plain(path))) {}

NewFolder::~NewFolder() {
  for (const fs::path& folder : created_) ::rmdir(folder.c_str());  // refused where something lies in it
}

FolderLock::FolderLock(const fs::path& folder) : folder_(folder), path_(plain(folder) / "run.lock") {
  for (;;) {
    Descriptor file(retried([&] { return ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666); }));
    if (file.get() < 0) call_failed(path_, "cannot be created");
    const Lock lock = try_lock(file.get(), path_);
    if (lock == Lock::kAnothers) {
      char holder[32] = {};
      const bool named = ::pread(file.get(), holder, sizeof holder - 1, 0) > 0;
      fail(folder.string(), ": expected a folder that no other run writes to, got one that ",
           named ? join("process ", std::atoll(holder)) : "another process", " holds (run.lock)");
    }
    if (!still_named(file.get(), path_)) continue;  // its last holder has just removed it
    const std::string number = std::to_string(::getpid()) + "\n";
    if (retried([&] { return ::ftruncate(file.get(), 0); }) != 0 ||
        retried([&] { return ::pwrite(file.get(), number.data(), number.size(), 0); }) < 0) {
      const int why = errno;
      ::unlink(path_.c_str());
      errno = why;
      call_failed(path_, "writing failed");
    }
    is_held_ = lock == Lock::kOurs;
    fd_ = file.release();
    return;
  }
}

FolderLock::~FolderLock() {
  ::unlink(path_.c_str());  // before the lock goes, as in AtomicFile
  ::close(fd_);
}

void append_line(const fs::path& path, std::string_view line) { append_bytes(path, std::string(line) + "\n"); }

// In one write, so that those of two writers do not mix.
void append_bytes(const fs::path& path, std::string_view bytes) {
  const Descriptor file(retried([&] { return ::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC); }));
  if (file.get() < 0) call_failed(path, "cannot be opened");
  const off_t before = ::lseek(file.get(), 0, SEEK_END);
  try {
    write_all(file.get(), bytes.data(), bytes.size(), path);
  } catch (const StorageError&) {
    static_cast<void>(::ftruncate(file.get(), before) == 0);  // no part of it stays
    throw;
  }
}

void copy_atomically(const File& from, const fs::path& to) {
  AtomicFile target(to);
  std::vector<std::byte> buffer(std::min<uint64_t>(from.size(), 1 << 20));
  for (uint64_t at = 0; at < from.size(); at += buffer.size()) {
    const std::span part(buffer.data(), std::min<uint64_t>(buffer.size(), from.size() - at));
    from.read(at, part);
    target.write(part);
  }
  target.commit();
}

void prepare_folder(const fs::path& path) {
  const fs::path folder = plain(path);
  make_folders(folder);
  const fs::path probe = folder / join(kProbe, ::getpid());
  const Descriptor file(retried([&] { return ::open(probe.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666); }));
  if (file.get() < 0) call_failed(folder, "cannot be written to");
  const ssize_t put = retried([&] { return ::write(file.get(), "x", 1); });
  const int why = errno;
  ::unlink(probe.c_str());
  errno = why;
  if (put != 1) call_failed(folder, "cannot be written to");
}

bool reset_peak_resident_bytes() {
  const Descriptor file(retried([&] { return ::open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC); }));
  return file.get() >= 0 && retried([&] { return ::write(file.get(), "5", 1); }) == 1;
}

void remove_file(const fs::path& path) {
  if (retried([&] { return ::remove(path.c_str()); }) != 0 && errno != ENOENT) call_failed(path, "cannot be removed");
}

void remove_folder(const fs::path& path) {
  if (path.extension() == ".tmp") return remove_quietly(path);
  const fs::path nameless = with_suffix(plain(path), kUnfinished);
  remove_quietly(nameless);
  if (::rename(plain(path).c_str(), nameless.c_str()) == 0) remove_quietly(nameless);
}

void rename_folder(const fs::path& from, const fs::path& to) {
  rename_checked(from, to);
  sync_folder(plain(to).parent_path());
}

}  // namespace rankfold
