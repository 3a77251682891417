#include "core/memory.h"

#include "core/peak_memory.h"
#include "rankfold/error.h"

#include <c10/util/Exception.h>

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <new>

namespace rankfold {
namespace {

// "Name:   123 kB" in a file of such lines.
int64_t kilobytes_line(const char* file, const std::string& name) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(name)) return std::atoll(line.c_str() + name.size()) * 1024;
  return 0;
}

}  // namespace

int64_t resident_bytes() { return kilobytes_line("/proc/self/status", "VmRSS:"); }

int64_t peak_resident_bytes() { return kilobytes_line("/proc/self/status", "VmHWM:"); }

int64_t available_bytes() {
  // What is mapped from files counts as available already.
  int64_t bytes = kilobytes_line("/proc/meminfo", "MemAvailable:") + kilobytes_line("/proc/self/status", "RssAnon:");
  // Lines such as "0::/a/b" (version 2) and "4:memory:/a/b" (version 1); every group above limits as well.
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (!controllers.empty() && controllers.find("memory") == std::string::npos) continue;
    const std::string root = controllers.empty() ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
    const char* file = controllers.empty() ? "/memory.max" : "/memory.limit_in_bytes";
    for (std::string group = line.substr(second + 1);; group.resize(group.rfind('/'))) {
      if (group == "/") group.clear();
      int64_t most = 0;  // "max" is not a number: no limit
      if (std::ifstream in(root + group + file); in >> most && most > 0) bytes = std::min(bytes, most);
      if (group.find('/') == std::string::npos) break;
    }
  }
  return bytes;
}

int64_t resident_bytes_of(const std::set<std::string>& files) {
  std::ifstream in("/proc/self/smaps");
  bool counts = false;
  int64_t bytes = 0;
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("Rss:")) {
      if (counts) bytes += std::atoll(line.c_str() + 4) * 1024;
    } else if (const size_t path = line.find('/'); path != std::string::npos && line.find('-') < path) {
      counts = files.contains(line.substr(path));
    } else if (const size_t colon = line.find(':'); colon == std::string::npos || line.find('-') < colon) {
      counts = false;  // a mapping without a file
    }
  }
  return bytes;
}

void read_ahead(const void* begin, size_t bytes) {
  constexpr uintptr_t kMostOfACall = 1 << 20;  // Linux may leave out what lies beyond its own limit for one call
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE)), first = reinterpret_cast<uintptr_t>(begin);
  for (uintptr_t at = first / page * page; at < first + bytes; at += kMostOfACall)
    ::madvise(reinterpret_cast<void*>(at), std::min(kMostOfACall, first + bytes - at), MADV_WILLNEED);
}

std::optional<std::string> out_of_memory(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error)) return "";
  if (const auto* ours = dynamic_cast<const Error*>(&error); ours && ours->code() == ExitCode::kOutOfMemory) {
    const std::string line = ours->what();  // "out of memory: ..."
    const size_t colon = line.find(": ");
    return colon == std::string::npos ? "" : line.substr(colon + 2);
  }
  const auto* raised = dynamic_cast<const c10::Error*>(&error);
  if (!raised) return std::nullopt;
  const std::string what = raised->what_without_backtrace(), line = what.substr(0, what.find('\n'));
  // libtorch's own allocator of the CPU raises the general kind.
  const size_t own = line.find("DefaultCPUAllocator: can't allocate memory: ");
  if (own != std::string::npos) return line.substr(line.find(": ", line.find(": ", own) + 2) + 2);
  if (dynamic_cast<const c10::OutOfMemoryError*>(raised)) return line;
  return std::nullopt;
}

}  // namespace rankfold
