// What may stand where a file is expected: each reader must say which it is, at once.
#pragma once

#include "rankfold/error.h"
#include "support/contains.h"
#include "support/stopwatch.h"
#include "support/temp_folder.h"

#include <sys/stat.h>

#include <filesystem>
#include <string>
#include <utility>

namespace rankfold::testing {

// Puts each of them at `path` in turn; `open` must throw a UserError that names the file and what stands there.
template <class Open>
void expect_imposters_are_named(const std::filesystem::path& path, Open open) {
  namespace fs = std::filesystem;
  const auto expect = [&](const std::string& kind) {
    SCOPED_TRACE(path.filename().string() + " is " + kind);
    const Stopwatch watch;
    const std::string line = error_of<UserError>(open);
    EXPECT_LT(watch.seconds(), 5);
    EXPECT_TRUE(contains(line, path.filename().string()));
    EXPECT_TRUE(contains(line, "got " + kind));
    EXPECT_EQ(line.find('\n'), std::string::npos);
    fs::remove(path);
  };
  fs::remove_all(path);
  fs::create_directory(path);
  expect("a folder");
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  expect("a FIFO");
  fs::create_symlink("/dev/zero", path);
  expect("a device");
  const std::pair<const char*, std::string> files[] = {
      {"an empty file", ""},
      {"a git-lfs pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 9\n"},
      {"an HTML page", "<!DOCTYPE html>\n<html><body>Not Found</body></html>\n"},
      {"a pickle", std::string("\x80\x02}q\x00.", 6)},
      {"a pickle", "PK\x03\x04 and more of it"}};
  for (const auto& [kind, bytes] : files) {
    std::ofstream(path, std::ios::binary) << bytes;
    expect(kind);
  }
}

// The most that memory has grown while `call` ran, in KiB.
template <class Call>
long growth_kib(Call call) {
  const auto held = [](const char* key) {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
      if (line.starts_with(key)) return std::stol(line.substr(std::string(key).size()));
    return 0L;
  };
  std::ofstream("/proc/self/clear_refs") << "5";  // the peak begins anew
  const long before = held("VmRSS:");
  call();
  return held("VmHWM:") - before;
}

}  // namespace rankfold::testing
