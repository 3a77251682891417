#include "core/file.h"

#include "core/write.h"
#include "rankfold/error.h"
#include "support/temp_folder.h"

#include <sys/stat.h>

#include <atomic>
#include <cstring>
#include <thread>

namespace rankfold {
namespace {

using testing::expect_error;
using testing::read_bytes;
using testing::TempFolder;
namespace fs = std::filesystem;

TEST(Mapping, ReadsFilesAndLinks) {
  const TempFolder folder;
  folder.write("a", "hello");
  fs::create_symlink("a", folder / "link");
  const auto map = Mapping::open(folder / "link");
  ASSERT_EQ(map->size(), 5u);
  EXPECT_EQ(std::memcmp(map->data(), "hello", 5), 0);
}

TEST(Mapping, SaysWhatStandsThere) {
  const TempFolder folder;
  folder.write("empty", "");
  ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
  expect_error<UserError>([&] { Mapping::open(folder / "none"); }, "none: expected a file, got nothing (No such file");
  expect_error<UserError>([&] { Mapping::open(folder.path()); }, "expected a file, got a folder");
  expect_error<UserError>([&] { Mapping::open(folder / "fifo"); }, "fifo: expected a file, got a FIFO");
  expect_error<UserError>([&] { Mapping::open("/dev/zero"); }, "/dev/zero: expected a file, got a device");
  expect_error<UserError>([&] { Mapping::open(folder / "empty"); }, "empty: expected data, got an empty file");
}

TEST(Mapping, OutlivesTheFile) {
  const TempFolder folder;
  folder.write("a", "before");
  const auto map = Mapping::open(folder / "a");
  write_text(folder / "a", "after!");
  EXPECT_EQ(std::memcmp(map->data(), "before", 6), 0);
}

TEST(File, ReadsAtAnyPlace) {
  const TempFolder folder;
  folder.write("a", "0123456789");
  const auto file = File::open(folder / "a");
  EXPECT_EQ(file->size(), 10u);
  std::string text(4, ' ');
  file->read(3, std::as_writable_bytes(std::span(text)));
  EXPECT_EQ(text, "3456");
  file->read(6, std::as_writable_bytes(std::span(text)));
  EXPECT_EQ(text, "6789");
  expect_error<Error>([&] { file->read(7, std::as_writable_bytes(std::span(text))); }, "a: became shorter");
  expect_error<UserError>([&] { File::open(folder.path()); }, "expected a file, got a folder");
}

TEST(Files, ForeignKinds) {
  EXPECT_NE(foreign_kind("PK\x03\x04..").find("pickle"), std::string::npos);
  EXPECT_NE(foreign_kind("\x80\x02}q").find("pickle"), std::string::npos);
  EXPECT_EQ(foreign_kind("  <HTML>"), "an HTML page");
  EXPECT_EQ(foreign_kind("{}"), "");
  EXPECT_EQ(foreign_kind(" "), "");
}

}  // namespace
}  // namespace rankfold
