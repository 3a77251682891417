// The only file of the product that opens files for writing, renames or deletes. What is written appears whole or not at
// all, also when the machine stops: data reaches the disk before its name does. Failures throw StorageError with path and
// errno's text.
#pragma once

#include "rankfold/error.h"

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

// After the name of what is not finished yet. Nobody else's files end so: what is found there was left by a crash of ours.
inline constexpr const char* kUnfinished = ".rankfold.tmp";

// Writes to `target`.rankfold.tmp in the same folder; commit() fsyncs, renames and fsyncs the folder. Not committed: no trace.
// A second writer of the same target, in this process or another, waits in its constructor until the first is done, or
// until `stop`.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path target, const Stop& stop = {});
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  const std::filesystem::path& path() const { return temporary_; }  // until commit()
  void commit();

 private:
  std::filesystem::path target_, temporary_;
  int fd_ = -1;
};
void write_text(const std::filesystem::path& path, std::string_view text);  // AtomicFile in one call

// A folder to fill before it, or what is in it, gets its place. Emptied first if a crash left one; removed in the end
// where it still is. UserError where another process fills it.
class Staging {
 public:
  explicit Staging(std::filesystem::path path);
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  const std::filesystem::path& path() const { return path_; }
  void keep() { path_.clear(); }

 private:
  std::filesystem::path path_;
  int fd_ = -1;  // its lock
};

// A folder that appears whole: fill `path()` (target.rankfold.tmp) with AtomicFiles, then commit() renames it to target. Not
// committed: removed.
class AtomicFolder {
 public:
  explicit AtomicFolder(const std::filesystem::path& target);
  const std::filesystem::path& path() const { return staging_.path(); }
  void commit();       // the target must not exist, or be an empty folder
  void commit_over();  // a folder that stands there gives way: at no instant is there neither

 private:
  std::filesystem::path target_;
  Staging staging_;
};

// Files that change together in a folder which holds others: fill `path()` (folder/saving.tmp) with AtomicFiles, among
// them the seal, then commit() moves them into the folder, the seal last. While they move another text stands under the
// seal's name, so that a folder with a seal holds the files of one set. Not committed: nothing has changed.
class FileSet {
 public:
  explicit FileSet(const std::filesystem::path& folder);  // created if it is not there
  const std::filesystem::path& path() const { return staging_.path(); }
  const std::filesystem::path& target() const { return folder_; }
  // Removes the files of these names too, which are of the set before and not of this one.
  void commit(const char* seal, std::string_view broken_seal, const std::vector<std::string>& obsolete);

 private:
  std::filesystem::path folder_;
  Staging staging_;
};
inline constexpr const char* kStaging = "saving.tmp";
inline constexpr const char* kAside = ".old.tmp";  // after the name of a folder that commit_over() moves out of the way

// Creates a folder and the parents it lacks. With this object those that were created go again if nothing lies in them:
// what fails leaves no trace.
class NewFolder {
 public:
  explicit NewFolder(const std::filesystem::path& path);
  ~NewFolder();
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;

 private:
  std::vector<std::filesystem::path> created_;  // the deepest first
};

// A folder for one process alone, created if it is not there. UserError names the process that has it. The lock is of
// the file run.lock in it and ends with the process, however that ends.
class FolderLock {
 public:
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  bool is_held() const { return is_held_; }  // not where the file system has no locks: others are not kept out

 private:
  NewFolder folder_;
  std::filesystem::path path_;
  int fd_ = -1;
  bool is_held_ = false;
};

// Adds one line to a log that is there, opened and closed at each call so that a reader sees whole lines; what fails adds
// nothing. A log that has gone is not begun anew: the lines before would be missing in it.
void append_line(const std::filesystem::path& path, std::string_view line);
class File;
void copy_atomically(const File& from, const std::filesystem::path& to);  // through AtomicFile
// Creates the folder (and parents) and proves that it can be written to, by a file whose name begins so.
inline constexpr const char* kProbe = ".rankfold-probe-";
void prepare_folder(const std::filesystem::path& path);
void remove_file(const std::filesystem::path& path);  // or an empty folder; nothing there is no error
// The folder (or file) and all in it; it loses its name first, so that no part of it ever stands under that. What cannot
// be removed stays.
void remove_folder(const std::filesystem::path& path);
void rename_folder(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace rankfold
