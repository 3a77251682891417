// Stands between the product and libc: numbers the calls that change files below a root folder, makes chosen ones fail,
// and keeps a journal of them. Linked before libc into faults_tests; loaded by LD_PRELOAD into the programs, where the
// environment tells the plan:
//   FAULTS_ROOT=/folder     only paths below it count; without it nothing is watched
//   FAULTS_ONLY=text        of these only paths that hold the text
//   FAULTS_FIRST=n          the first call that fails, from 1
//   FAULTS_COUNT=m          how many calls fail from there on (default 1; -1: all)
//   FAULTS_SPARES=1         deletions and closing never fail and have no number, as on a disk that is full
//   FAULTS_ERROR=28         errno; 0: writes are short
//   FAULTS_MMAP=19          errno of every mapping of a file below the root
//   FAULTS_READ=5           errno of every read of a file below the root that holds FAULTS_ONLY
//   FAULTS_EXCHANGE=22      errno of every exchange of two names, which then has no number
//   FAULTS_SIGNAL=15        no call fails: the process gets this signal at the first one
//   FAULTS_CLOCK=-3600      no call fails: from the first one on the time of day is so many seconds later
//   FAULTS_REPORT=/file     gets a line "socket" for each socket or connection of the process, which are the only calls
//                           that are watched everywhere; and at its end "calls N" and how often it has asked for the
//                           time of day, "times N"
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#define FAULTS_EXPORT __attribute__((visibility("default")))

namespace rankfold::faults {

enum class Call { kOpen, kWrite, kSync, kRename, kExchange, kMakeFolder, kUnlink, kRemoveFolder, kTruncate, kClose };

// A call that succeeded.
struct Entry {
  Call call;
  int fd = -1;             // of open, write, sync, truncate and close
  std::string path = {};   // of calls that name one: absolute
  std::string other = {};  // the second name of a renaming
  int64_t offset = 0;      // where a write begins; the size of a truncate
  std::string data = {};
  bool writes = true;    // an open for reading is kept, as fsync takes its descriptor, but has no number
  bool empties = false;  // O_TRUNC
};

struct Plan {
  std::string root = {};
  std::string only = {};
  int64_t first = 0;  // 0: no call fails
  int64_t count = 1;  // -1: all from there on
  int error = 0;      // 0: writes take half of what they are given
  int map_error = 0, read_error = 0, exchange_error = 0;
  int signal = 0;
  int64_t clock = 0;
  bool spares = false;
  bool journal = false;
};

struct Report {
  int64_t calls = 0, failed = 0;
  bool deletions_failed = false;           // then what should have been deleted may still be there
  std::vector<std::string> failures = {};  // "write /a/b.tmp", the first few
  std::vector<Entry> journal = {};
};

FAULTS_EXPORT void start(const Plan& plan);  // counts from 1 again
FAULTS_EXPORT Report stop();
FAULTS_EXPORT int64_t calls();  // since start()
FAULTS_EXPORT size_t journal_size();

}  // namespace rankfold::faults
