#include "core/write.h"

#include "core/file.h"
#include "rankfold/error.h"
#include "support/temp_folder.h"

#include <sys/stat.h>

#include <atomic>
#include <thread>

namespace rankfold {
namespace {

using testing::expect_error;
using testing::read_bytes;
using testing::TempFolder;
namespace fs = std::filesystem;

size_t entries(const fs::path& folder) {
  return static_cast<size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

TEST(AtomicFile, OldOrNew) {
  const TempFolder folder;
  const fs::path path = folder.write("a", "old");
  {
    AtomicFile file(path);
    file.write("new");
    EXPECT_EQ(read_bytes(path), "old");
  }
  EXPECT_EQ(read_bytes(path), "old");
  EXPECT_EQ(entries(folder.path()), 1u);  // not committed: no trace
  AtomicFile file(path);
  file.write("ne");
  file.write("w");
  file.commit();
  EXPECT_EQ(read_bytes(path), "new");
  EXPECT_EQ(entries(folder.path()), 1u);
}

TEST(AtomicFile, WritesWhereALinkPoints) {
  const TempFolder folder;
  folder.write("there/old", "old");
  fs::create_symlink("there/old", folder / "link");
  fs::create_symlink("there/new", folder / "dangling");
  fs::create_symlink("dangling", folder / "twice");
  write_text(folder / "link", "1");
  write_text(folder / "twice", "2");
  EXPECT_EQ(read_bytes(folder / "there/old"), "1");
  EXPECT_EQ(read_bytes(folder / "there/new"), "2");
  EXPECT_TRUE(fs::is_symlink(folder / "link") && fs::is_symlink(folder / "twice"));
  ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
  expect_error<UserError>([&] { write_text(folder / "fifo", "x"); }, "fifo: expected a file name, got a FIFO");
}

TEST(AtomicFile, ErrorsNameThePath) {
  const TempFolder folder;
  expect_error<Error>([&] { AtomicFile(folder / "no/such/file"); },
                      "file.rankfold.tmp: cannot be created: No such file");
  fs::create_directory(folder / "taken");
  expect_error<UserError>([&] { write_text(folder / "taken", "x"); }, "taken: expected a file name, got a folder");
  EXPECT_EQ(entries(folder.path()), 1u);
  try {
    write_text("/dev/full/x", "x");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kStorage);
  }
}

TEST(AtomicFile, KeepsTwoWritersApart) {
  const TempFolder folder;
  const fs::path path = folder / "a";
  std::atomic<int> writing = 0;
  std::vector<std::thread> writers;
  for (const char c : {'1', '2', '3', '4'})
    writers.emplace_back([&, c] {
      for (int round = 0; round < 50; ++round) {
        AtomicFile file(path);
        EXPECT_EQ(++writing, 1);
        for (int part = 0; part < 3; ++part) file.write(std::string(1000, c));
        --writing;
        if (round % 2) file.commit();
      }
    });
  for (std::thread& writer : writers) writer.join();
  const std::string bytes = read_bytes(path);
  EXPECT_EQ(bytes, std::string(3000, bytes[0]));
  EXPECT_EQ(entries(folder.path()), 1u);
}

TEST(NewFolder, GoesAgainIfItIsEmpty) {
  const TempFolder folder;
  fs::create_directory(folder / "old");
  { const NewFolder made(folder / "old/a/b/"); }
  EXPECT_TRUE(fs::is_empty(folder / "old"));
  {
    const NewFolder made(folder / "old/a/b");
    folder.write("old/a/c", "kept");
  }
  EXPECT_FALSE(fs::exists(folder / "old/a/b"));
  EXPECT_EQ(read_bytes(folder / "old/a/c"), "kept");
  { const NewFolder there(folder / "old"); }
  EXPECT_TRUE(fs::exists(folder / "old"));
  expect_error<Error>([&] { NewFolder(folder / "old/a/c/d"); }, "cannot create the folder");
}

TEST(AtomicFolder, AppearsWhole) {
  const TempFolder folder;
  folder.write("out.rankfold.tmp/rubbish", "of a crash");
  folder.write("out.tmp/kept", "of a person");
  AtomicFolder out(folder / "out/");
  write_text(out.path() / "a", "1");
  fs::create_directory(out.path() / "sub");
  write_text(out.path() / "sub/b", "2");
  EXPECT_FALSE(fs::exists(folder / "out"));
  out.commit();
  EXPECT_EQ(read_bytes(folder / "out/sub/b"), "2");
  EXPECT_FALSE(fs::exists(folder / "out/rubbish"));
  EXPECT_EQ(read_bytes(folder / "out.tmp/kept"), "of a person");
  { AtomicFolder dropped(folder / "dropped"); }
  EXPECT_EQ(entries(folder.path()), 2u);
}

TEST(AtomicFolder, NeverReplacesAnything) {
  const TempFolder folder;
  folder.write("full/a", "1");
  fs::create_directory(folder / "empty");
  AtomicFolder full(folder / "full"), empty(folder / "empty");
  expect_error<Error>([&] { full.commit(); }, "full: renaming full.rankfold.tmp to it failed");
  EXPECT_EQ(read_bytes(folder / "full/a"), "1");
  EXPECT_NO_THROW(empty.commit());
}

// As the system reads the path, not as its text looks.
TEST(AtomicFolder, FollowsLinksAsTheSystemDoes) {
  const TempFolder folder;
  fs::create_directories(folder / "data/deep");
  fs::create_directories(folder / "home");
  fs::create_symlink(folder / "data/deep", folder / "home/link");
  {
    AtomicFolder out(folder / "home/link/../out");
    write_text(out.path() / "a", "1");
    out.commit();
  }
  EXPECT_EQ(read_bytes(folder / "data/out/a"), "1");
  EXPECT_FALSE(fs::exists(folder / "home/out"));
  fs::create_directory(folder / "data/empty");
  fs::create_symlink(folder / "data/empty", folder / "home/to_empty");
  AtomicFolder out(folder / "home/to_empty");
  write_text(out.path() / "a", "2");
  out.commit();
  EXPECT_EQ(read_bytes(folder / "data/empty/a"), "2");
  EXPECT_TRUE(fs::is_symlink(folder / "home/to_empty"));
}

TEST(Files, TextLinesAndCopies) {
  const TempFolder folder;
  expect_error<Error>([&] { append_line(folder / "log", "none"); }, "log: cannot be opened: No such file");
  EXPECT_FALSE(fs::exists(folder / "log"));
  write_text(folder / "log", "");
  append_line(folder / "log", "one");
  append_line(folder / "log", "two");
  EXPECT_EQ(read_text(folder / "log"), "one\ntwo\n");
  expect_error<UserError>([&] { read_text(folder / "log", 3); }, "log: expected at most 3 bytes, got 8");
  const std::string big(3'000'001, 'x');
  folder.write("big", big);
  copy_atomically(*File::open(folder / "big"), folder / "copy");
  EXPECT_EQ(read_bytes(folder / "copy"), big);
}

TEST(Files, PrepareFolder) {
  const TempFolder folder;
  prepare_folder(folder / "a/b");
  EXPECT_TRUE(fs::is_empty(folder / "a/b"));
  folder.write("file", "");
  expect_error<Error>([&] { prepare_folder(folder / "file/sub"); }, "cannot create the folder");
  expect_error<Error>([&] { prepare_folder(folder / "file"); }, "file");
}

}  // namespace
}  // namespace rankfold
