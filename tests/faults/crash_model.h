// What a disk may hold after the power went off: of a journal of calls (shim.h), what no fsync has reached is there or
// not, in any mixture.
//
// A name is an entry of its folder, changed at once by open(O_CREAT), mkdir, unlink, rmdir and rename (both names of a
// renaming together); it is certain once the folder it ends in was synced. Bytes are certain once their file was synced.
// Nothing else makes anything certain: that is less than any file system of today gives.
#pragma once

#include "faults/flags.h"
#include "faults/shim.h"

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace rankfold::faults {

class Disk {
 public:
  using Files = std::map<std::string, std::string>;  // path below the root -> bytes

  explicit Disk(const std::filesystem::path& folder);  // as the folder is now
  void write_to(const std::filesystem::path& folder) const;
  Files files(const std::string& below = "") const;
  size_t hash() const;  // of names and bytes

 private:
  friend class CrashModel;
  struct Node {
    bool folder;
    std::string data;
    std::map<std::string, int> names;
  };
  struct Change {
    int folder;
    std::string name;
    int node;  // -1: the name goes
  };
  int add(Node node);
  void apply(const std::vector<Change>& names);
  int find(const std::string& path) const;  // -1: nothing
  void collect(int node, const std::string& path, Files& files) const;

  std::string root_;
  std::vector<Node> nodes_;  // the first is the root
};

class CrashModel {
 public:
  CrashModel(Disk before, const std::vector<Entry>& journal);

  // What becomes of what is not certain.
  enum class Fate { kKept, kDropped, kPrefix, kZeros };
  using Chance = std::function<Fate(bool is_name)>;

  size_t size() const { return effects_.size(); }  // calls: a crash may come after 0, 1, ... size() of them
  Disk after(size_t calls, const Chance& chance) const;
  Disk whole(size_t calls) const {
    return after(calls, [](bool) { return Fate::kKept; });
  }
  // The orderly mixtures, and then as many random ones as flags.states says.
  std::vector<Disk> states_after(size_t calls) const;

 private:
  struct Effect {
    std::vector<Disk::Change> names = {};
    int node = -1;  // whose bytes change
    bool truncates = false;
    int64_t offset = 0;
    std::string data = {};
    int synced = -1;            // the node that this call makes certain
    size_t certain = SIZE_MAX;  // the number of the call that makes this one certain
  };
  int created(bool folder);

  Disk disk_;  // the first, with every node there will ever be
  std::vector<Effect> effects_;
};

}  // namespace rankfold::faults
