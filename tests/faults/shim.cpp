#include "faults/shim.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <map>
#include <mutex>

namespace rankfold::faults {
namespace {

const char* name_of(Call call) {
  static const char* const names[] = {"open",  "write",  "fsync", "rename",   "renameat2",
                                      "mkdir", "unlink", "rmdir", "truncate", "close"};
  return names[static_cast<int>(call)];
}

bool is_deletion(Call call) { return call == Call::kUnlink || call == Call::kRemoveFolder; }

// The next definition after ours: libc's.
template <class Function>
Function* real(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}
#define REAL(function) static auto* const next = real<decltype(::function)>(#function)

struct OpenedFile {
  std::string path;
  bool writes;
};

// Absolute, without "." and double slashes; links stay.
std::string absolute(int folder, const char* path) {
  std::string text = path;
  if (path[0] != '/') {
    char base[PATH_MAX];
    const std::string link = "/proc/self/fd/" + std::to_string(folder);
    const ssize_t size = folder == AT_FDCWD ? ::readlink("/proc/self/cwd", base, sizeof base)
                                            : ::readlink(link.c_str(), base, sizeof base);
    text = std::string(base, static_cast<size_t>(std::max<ssize_t>(size, 0))) + "/" + text;
  }
  std::string plain;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('/', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    if (part == "..")
      plain.resize(std::min(plain.size(), plain.rfind('/')));
    else if (!part.empty() && part != ".")
      plain += "/" + part;
    begin = end + 1;
  }
  return plain;
}

class Shim {
 public:
  static Shim& get() {  // never destroyed: other libraries close files at the very end
    static Shim* const shim = new Shim;
    return *shim;
  }

  void start(const Plan& plan) {
    const std::lock_guard lock(mutex_);
    plan_ = plan;
    report_ = {};
    later_ = 0;
    active_ = true;
  }
  Report stop() {
    const std::lock_guard lock(mutex_);
    active_ = false;
    plan_ = {};
    later_ = 0;
    for (const auto& [fd, file] : files_) watched_[fd] = false;
    files_.clear();
    return std::move(report_);
  }
  int64_t calls() {
    const std::lock_guard lock(mutex_);
    return report_.calls;
  }
  size_t journal_size() {
    const std::lock_guard lock(mutex_);
    return report_.journal.size();
  }

  bool below_root(const std::string& path) const {
    return path.size() > plan_.root.size() ? path.starts_with(plan_.root + "/") : path == plan_.root;
  }

  enum class Verdict { kPass, kFail, kShort };

  // Numbers the call; on kFail errno is set.
  Verdict judge(Call call, const std::string& path) {
    const std::lock_guard lock(mutex_);
    if (!counts(path) || (plan_.spares && (is_deletion(call) || call == Call::kClose))) return Verdict::kPass;
    const int64_t number = ++report_.calls;
    const bool fails =
        plan_.first > 0 && number >= plan_.first && (plan_.count < 0 || number < plan_.first + plan_.count);
    if (!fails) return Verdict::kPass;
    if (plan_.signal != 0) return deliver(plan_.signal), Verdict::kPass;
    if (plan_.clock != 0) return later_ = plan_.clock, Verdict::kPass;
    if (plan_.error == 0 && call != Call::kWrite) return Verdict::kPass;
    ++report_.failed;
    if (plan_.error != 0) report_.deletions_failed |= is_deletion(call);
    if (report_.failures.size() < 4) report_.failures.push_back(std::string(name_of(call)) + " " + path);
    if (plan_.error == 0) return Verdict::kShort;
    errno = plan_.error;
    return Verdict::kFail;
  }

  void note(Entry entry) {
    const std::lock_guard lock(mutex_);
    const bool watched = entry.path.empty() || below_root(entry.path) || below_root(entry.other);
    if (active_ && plan_.journal && watched) report_.journal.push_back(std::move(entry));
  }

  void opened(int fd, const std::string& path, bool writes) {
    const std::lock_guard lock(mutex_);
    if (!active_ || !below_root(path) || !can_watch(fd)) return;
    files_[fd] = {path, writes};
    watched_[fd] = true;
  }
  // "" for descriptors that are not watched: without the lock, as a signal handler may write to one of those.
  OpenedFile file(int fd) {
    if (!can_watch(fd) || !watched_[fd]) return {"", false};
    const std::lock_guard lock(mutex_);
    const auto found = files_.find(fd);
    return !active_ || found == files_.end() ? OpenedFile{"", false} : found->second;
  }
  void closed(int fd) {
    const std::lock_guard lock(mutex_);
    files_.erase(fd);
    watched_[fd] = false;
  }

  int exchange_error(const std::string& path) { return active_ && below_root(path) ? plan_.exchange_error : 0; }
  int64_t later() {
    ++times_;
    return later_;
  }
  int64_t times() const { return times_; }
  int map_error(int fd) { return file(fd).path.empty() ? 0 : plan_.map_error; }
  int read_error(int fd) {
    const OpenedFile opened = file(fd);
    return opened.path.empty() || opened.path.find(plan_.only) == std::string::npos ? 0 : plan_.read_error;
  }

  void tell(const std::string& line) const {
    if (report_path_.empty()) return;
    REAL(open);
    const int fd = next(report_path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) return;
    static auto* const put = real<decltype(::write)>("write");
    if (put(fd, line.data(), line.size()) < 0) std::abort();
    static auto* const end = real<decltype(::close)>("close");
    end(fd);
  }

 private:
  Shim() {
    const auto text = [](const char* name) { return std::string(std::getenv(name) ? std::getenv(name) : ""); };
    const auto number = [&](const char* name, int otherwise) {
      return text(name).empty() ? otherwise : std::atoi(text(name).c_str());
    };
    report_path_ = text("FAULTS_REPORT");
    plan_ = {.root = text("FAULTS_ROOT"),
             .only = text("FAULTS_ONLY"),
             .first = number("FAULTS_FIRST", 0),
             .count = number("FAULTS_COUNT", 1),
             .error = number("FAULTS_ERROR", 0),
             .map_error = number("FAULTS_MMAP", 0),
             .read_error = number("FAULTS_READ", 0),
             .exchange_error = number("FAULTS_EXCHANGE", 0),
             .signal = number("FAULTS_SIGNAL", 0),
             .clock = number("FAULTS_CLOCK", 0),
             .spares = number("FAULTS_SPARES", 0) != 0};
    active_ = !plan_.root.empty();
  }

  // As if from another process; comes back when somebody has taken it.
  static void deliver(int signal) {
    ::kill(::getpid(), signal);
    sigset_t pending;
    do ::usleep(200), ::sigpending(&pending);
    while (::sigismember(&pending, signal) == 1);
  }

  bool can_watch(int fd) const { return fd >= 0 && static_cast<size_t>(fd) < watched_.size(); }
  bool counts(const std::string& path) const {
    return active_ && below_root(path) && path.find(plan_.only) != std::string::npos;
  }

  std::mutex mutex_;
  bool active_ = false;
  Plan plan_;
  Report report_;
  std::map<int, OpenedFile> files_;
  std::array<std::atomic<bool>, 4096> watched_ = {};  // by descriptor
  std::atomic<int64_t> later_ = 0, times_ = 0;        // seconds that the time of day is ahead; questions for it
  std::string report_path_;
};

using Verdict = Shim::Verdict;

bool is_for_writing(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC)); }

template <class Open>
int watched_open(int folder, const char* path, int flags, Open open) {
  Shim& shim = Shim::get();
  const std::string full = absolute(folder, path);
  const bool writes = is_for_writing(flags);
  if (writes && shim.judge(Call::kOpen, full) == Verdict::kFail) return -1;
  const int fd = open();
  if (fd < 0) return fd;
  const int why = errno;
  shim.opened(fd, full, writes);
  shim.note({.call = Call::kOpen, .fd = fd, .path = full, .writes = writes, .empties = (flags & O_TRUNC) != 0});
  errno = why;
  return fd;
}

mode_t mode_of(int flags, va_list arguments) {
  return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(arguments, mode_t) : 0;
}

// A call that names files and answers 0.
template <class Real>
int watched_names(Entry entry, Real call) {
  Shim& shim = Shim::get();
  if (shim.judge(entry.call, entry.path) == Verdict::kFail) return -1;
  const int result = call();
  if (result == 0) shim.note(std::move(entry));
  return result;
}

// write and its kin: `write` is told how many bytes to take.
template <class Real>
ssize_t watched_write(int fd, const void* data, size_t size, int64_t offset, Real write) {
  Shim& shim = Shim::get();
  const OpenedFile file = shim.file(fd);
  if (file.path.empty()) return write(size);
  const Verdict verdict = shim.judge(Call::kWrite, file.path);
  if (verdict == Verdict::kFail) return -1;
  const ssize_t put = write(verdict == Verdict::kShort ? (size + 1) / 2 : size);
  if (put < 0) return put;
  if (offset < 0) offset = ::lseek(fd, 0, SEEK_CUR) - put;
  shim.note({.call = Call::kWrite,
             .fd = fd,
             .offset = offset,
             .data = std::string(static_cast<const char*>(data), static_cast<size_t>(put))});
  return put;
}

template <class Real>
int watched_descriptor(Call call, int fd, int64_t size, Real real_call) {
  Shim& shim = Shim::get();
  const OpenedFile file = shim.file(fd);
  if (file.path.empty()) return real_call();
  if (shim.judge(call, file.path) == Verdict::kFail) return -1;
  const int result = real_call();
  if (result == 0) shim.note({.call = call, .fd = fd, .offset = size});
  return result;
}

// The descriptor is gone even where close fails. One opened for reading cannot fail in a way that matters.
template <class Real>
int watched_close(int fd, Real real_close) {
  Shim& shim = Shim::get();
  const OpenedFile file = shim.file(fd);
  if (file.path.empty()) return real_close();
  shim.note({.call = Call::kClose, .fd = fd});
  shim.closed(fd);  // before the number is given to another file
  const Verdict verdict = file.writes ? shim.judge(Call::kClose, file.path) : Verdict::kPass;
  const int why = errno;
  const int result = real_close();
  if (verdict != Verdict::kFail) return result;
  errno = why;
  return -1;
}

__attribute__((destructor)) void tell_calls() {
  Shim::get().tell("calls " + std::to_string(Shim::get().calls()) + "\ntimes " + std::to_string(Shim::get().times()) +
                   "\n");
}

}  // namespace

void start(const Plan& plan) { Shim::get().start(plan); }
Report stop() { return Shim::get().stop(); }
int64_t calls() { return Shim::get().calls(); }
size_t journal_size() { return Shim::get().journal_size(); }

// libc's calls. Each *64 is the same function under another name.
extern "C" {

#define WATCHED_OPEN(function)                                                           \
  FAULTS_EXPORT int function(const char* path, int flags, ...) {                         \
    REAL(function);                                                                      \
    va_list arguments;                                                                   \
    va_start(arguments, flags);                                                          \
    const mode_t mode = mode_of(flags, arguments);                                       \
    va_end(arguments);                                                                   \
    return watched_open(AT_FDCWD, path, flags, [&] { return next(path, flags, mode); }); \
  }
WATCHED_OPEN(open)
WATCHED_OPEN(open64)

#define WATCHED_OPENAT(function)                                                               \
  FAULTS_EXPORT int function(int folder, const char* path, int flags, ...) {                   \
    REAL(function);                                                                            \
    va_list arguments;                                                                         \
    va_start(arguments, flags);                                                                \
    const mode_t mode = mode_of(flags, arguments);                                             \
    va_end(arguments);                                                                         \
    return watched_open(folder, path, flags, [&] { return next(folder, path, flags, mode); }); \
  }
WATCHED_OPENAT(openat)
WATCHED_OPENAT(openat64)

#define WATCHED_CREAT(function)                                                                          \
  FAULTS_EXPORT int function(const char* path, mode_t mode) {                                            \
    REAL(function);                                                                                      \
    return watched_open(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, [&] { return next(path, mode); }); \
  }
WATCHED_CREAT(creat)
WATCHED_CREAT(creat64)

// The product does not write through stdio: its streams only have to be seen to open.
#define WATCHED_FOPEN(function)                                                                               \
  FAULTS_EXPORT FILE* function(const char* path, const char* mode) {                                          \
    REAL(function);                                                                                           \
    const bool writes = std::string(mode).find_first_of("wa+") != std::string::npos;                          \
    if (writes && Shim::get().judge(Call::kOpen, absolute(AT_FDCWD, path)) == Verdict::kFail) return nullptr; \
    return next(path, mode);                                                                                  \
  }
WATCHED_FOPEN(fopen)
WATCHED_FOPEN(fopen64)

FAULTS_EXPORT ssize_t write(int fd, const void* data, size_t size) {
  REAL(write);
  return watched_write(fd, data, size, -1, [&](size_t taken) { return next(fd, data, taken); });
}
#define WATCHED_PWRITE(function)                                                                       \
  FAULTS_EXPORT ssize_t function(int fd, const void* data, size_t size, off64_t at) {                  \
    REAL(function);                                                                                    \
    return watched_write(fd, data, size, at, [&](size_t taken) { return next(fd, data, taken, at); }); \
  }
WATCHED_PWRITE(pwrite)
WATCHED_PWRITE(pwrite64)

// As one write each, so that the journal has whole data.
FAULTS_EXPORT ssize_t writev(int fd, const iovec* parts, int count) {
  REAL(writev);
  if (Shim::get().file(fd).path.empty()) return next(fd, parts, count);
  std::string all;
  for (int i = 0; i < count; ++i) all.append(static_cast<const char*>(parts[i].iov_base), parts[i].iov_len);
  return ::write(fd, all.data(), all.size());
}

FAULTS_EXPORT int fsync(int fd) {
  REAL(fsync);
  return watched_descriptor(Call::kSync, fd, 0, [&] { return next(fd); });
}
FAULTS_EXPORT int fdatasync(int fd) {
  REAL(fdatasync);
  return watched_descriptor(Call::kSync, fd, 0, [&] { return next(fd); });
}
#define WATCHED_TRUNCATE(function)                                                        \
  FAULTS_EXPORT int function(int fd, off64_t size) noexcept {                             \
    REAL(function);                                                                       \
    return watched_descriptor(Call::kTruncate, fd, size, [&] { return next(fd, size); }); \
  }
WATCHED_TRUNCATE(ftruncate)
WATCHED_TRUNCATE(ftruncate64)

FAULTS_EXPORT int close(int fd) {
  REAL(close);
  return watched_close(fd, [&] { return next(fd); });
}

FAULTS_EXPORT int rename(const char* from, const char* to) noexcept {
  REAL(rename);
  return watched_names({.call = Call::kRename, .path = absolute(AT_FDCWD, to), .other = absolute(AT_FDCWD, from)},
                       [&] { return next(from, to); });
}
FAULTS_EXPORT int renameat(int from_folder, const char* from, int to_folder, const char* to) noexcept {
  REAL(renameat);
  return watched_names({.call = Call::kRename, .path = absolute(to_folder, to), .other = absolute(from_folder, from)},
                       [&] { return next(from_folder, from, to_folder, to); });
}
FAULTS_EXPORT int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) noexcept {
  REAL(renameat2);
  const Call call = flags & RENAME_EXCHANGE ? Call::kExchange : Call::kRename;
  if (call == Call::kExchange)
    if (const int error = Shim::get().exchange_error(absolute(to_folder, to))) return errno = error, -1;
  return watched_names({.call = call, .path = absolute(to_folder, to), .other = absolute(from_folder, from)},
                       [&] { return next(from_folder, from, to_folder, to, flags); });
}
FAULTS_EXPORT int mkdir(const char* path, mode_t mode) noexcept {
  REAL(mkdir);
  return watched_names({.call = Call::kMakeFolder, .path = absolute(AT_FDCWD, path)}, [&] { return next(path, mode); });
}
FAULTS_EXPORT int mkdirat(int folder, const char* path, mode_t mode) noexcept {
  REAL(mkdirat);
  return watched_names({.call = Call::kMakeFolder, .path = absolute(folder, path)},
                       [&] { return next(folder, path, mode); });
}
FAULTS_EXPORT int unlink(const char* path) noexcept {
  REAL(unlink);
  return watched_names({.call = Call::kUnlink, .path = absolute(AT_FDCWD, path)}, [&] { return next(path); });
}
FAULTS_EXPORT int unlinkat(int folder, const char* path, int flags) noexcept {
  REAL(unlinkat);
  const Call call = flags & AT_REMOVEDIR ? Call::kRemoveFolder : Call::kUnlink;
  return watched_names({.call = call, .path = absolute(folder, path)}, [&] { return next(folder, path, flags); });
}
FAULTS_EXPORT int rmdir(const char* path) noexcept {
  REAL(rmdir);
  return watched_names({.call = Call::kRemoveFolder, .path = absolute(AT_FDCWD, path)}, [&] { return next(path); });
}
FAULTS_EXPORT int remove(const char* path) noexcept {  // libc's would call its own unlink
  struct stat status;
  return ::lstat(path, &status) == 0 && S_ISDIR(status.st_mode) ? ::rmdir(path) : ::unlink(path);
}

FAULTS_EXPORT ssize_t read(int fd, void* to, size_t size) {
  REAL(read);
  if (const int error = Shim::get().read_error(fd)) return errno = error, -1;
  return next(fd, to, size);
}
#define WATCHED_PREAD(function)                                                 \
  FAULTS_EXPORT ssize_t function(int fd, void* to, size_t size, off64_t at) {   \
    REAL(function);                                                             \
    if (const int error = Shim::get().read_error(fd)) return errno = error, -1; \
    return next(fd, to, size, at);                                              \
  }
WATCHED_PREAD(pread)
WATCHED_PREAD(pread64)

#define WATCHED_MMAP(function)                                                                                     \
  FAULTS_EXPORT void* function(void* at, size_t size, int protection, int flags, int fd, off64_t begin) noexcept { \
    REAL(function);                                                                                                \
    if (const int error = fd < 0 ? 0 : Shim::get().map_error(fd)) return errno = error, MAP_FAILED;                \
    return next(at, size, protection, flags, fd, begin);                                                           \
  }
WATCHED_MMAP(mmap)
WATCHED_MMAP(mmap64)

FAULTS_EXPORT int clock_gettime(clockid_t clock, timespec* now) noexcept {
  REAL(clock_gettime);
  const int result = next(clock, now);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += Shim::get().later();
  return result;
}
FAULTS_EXPORT int gettimeofday(timeval* now, void* zone) noexcept {
  REAL(gettimeofday);
  const int result = next(now, zone);
  if (result == 0) now->tv_sec += Shim::get().later();
  return result;
}
FAULTS_EXPORT time_t time(time_t* to) noexcept {
  REAL(time);
  const time_t now = next(nullptr) + Shim::get().later();
  if (to) *to = now;
  return now;
}

FAULTS_EXPORT int socket(int domain, int type, int protocol) noexcept {
  REAL(socket);
  Shim::get().tell("socket\n");
  return next(domain, type, protocol);
}
FAULTS_EXPORT int connect(int fd, const sockaddr* to, socklen_t size) {
  REAL(connect);
  Shim::get().tell("socket\n");
  return next(fd, to, size);
}

}  // extern "C"
}  // namespace rankfold::faults
