// The only part of the product that opens files for writing, renames or deletes. A file appears complete or not at all,
// even after a power failure: its data is on the disk before its name. Failures throw StorageError with the path and
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

// Suffix of unfinished files and folders. Only we use it, so an existing one was left by a crash.
inline constexpr const char* kUnfinished = ".rankfold.tmp";

// Writes a file atomically: to `target`.rankfold.tmp in the same folder. commit() fsyncs it, renames it and fsyncs the
// folder. Without commit() nothing remains. If another writer of the same target exists, in this process or another,
// the constructor waits until it is done or `stop` returns true.
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

// A temporary folder to fill before it, or its content, is moved into place. The constructor removes what a crash left
// in it. The destructor removes the folder if it still exists. Throws UserError where another process is filling it.
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

// Creates a folder atomically: fill `path()` (target.rankfold.tmp) with AtomicFiles; commit() renames it to target.
// Without commit() it is removed.
class AtomicFolder {
 public:
  explicit AtomicFolder(const std::filesystem::path& target);
  const std::filesystem::path& path() const { return staging_.path(); }
  void commit();       // the target must not exist, or be an empty folder
  void commit_over();  // replaces an existing folder: at every instant there is the old or the new one

 private:
  std::filesystem::path target_;
  Staging staging_;
};

// Replaces several files of a folder as one set. Fill `path()` (folder/saving.tmp) with AtomicFiles, among them the
// seal, a file such as manifest.json. commit() moves them into the folder, the seal last. Meanwhile the seal's name has
// another text, so a folder with a valid seal contains the files of one set. Without commit() nothing changes.
class FileSet {
 public:
  explicit FileSet(const std::filesystem::path& folder);  // created if it does not exist
  const std::filesystem::path& path() const { return staging_.path(); }
  const std::filesystem::path& target() const { return folder_; }
  // `obsolete`: names of files of the previous set to remove.
  void commit(const char* seal, std::string_view broken_seal, const std::vector<std::string>& obsolete);

 private:
  std::filesystem::path folder_;
  Staging staging_;
};
inline constexpr const char* kStaging = "saving.tmp";
inline constexpr const char* kAside = ".old.tmp";  // suffix of a folder that commit_over() moves away

// Creates a folder and its missing parents. The destructor removes those that were created and are still empty, so that
// a failure leaves no trace.
class NewFolder {
 public:
  explicit NewFolder(const std::filesystem::path& path);
  ~NewFolder();
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;

 private:
  std::vector<std::filesystem::path> created_;  // the deepest first
};

// Locks a folder for this process, and creates it if necessary. Throws UserError that names the process that has the
// lock. The lock is on the file run.lock in the folder and ends with the process.
class FolderLock {
 public:
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  // False where the file system has no locks: other processes are not excluded.
  bool is_held() const { return is_held_; }

 private:
  NewFolder folder_;
  std::filesystem::path path_;
  int fd_ = -1;
  bool is_held_ = false;
};

// Appends one line to an existing log. The log is opened and closed at each call, so that a reader sees complete lines;
// a failure adds nothing. A log that was deleted is not created again, because its earlier lines would be missing.
void append_line(const std::filesystem::path& path, std::string_view line);
void append_bytes(const std::filesystem::path& path, std::string_view bytes);  // the same for binary records
class File;
void copy_atomically(const File& from, const std::filesystem::path& to);  // by AtomicFile
// Creates the folder and its parents, and proves that it is writable by creating a file with this prefix.
inline constexpr const char* kProbe = ".rankfold-probe-";
void prepare_folder(const std::filesystem::path& path);
void remove_file(const std::filesystem::path& path);  // or an empty folder; no error if there is nothing
// Removes a folder (or file) and its content. It is renamed first, so that its name never refers to a partial folder.
// What cannot be removed remains.
void remove_folder(const std::filesystem::path& path);
void rename_folder(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace rankfold
