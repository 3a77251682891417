#include "core/folder_lock.h"

#include "core/descriptor.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>

namespace rankfold {

bool is_folder_locked(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "run.lock";
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  // A shared lock is had at once where no run has its own, and goes with the descriptor.
  return file.get() >= 0 && ::flock(file.get(), LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

}  // namespace rankfold
