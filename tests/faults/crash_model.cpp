#include "faults/crash_model.h"

#include "support/temp_folder.h"

#include <algorithm>
#include <fstream>
#include <stdexcept>

namespace rankfold::faults {
namespace fs = std::filesystem;

Disk::Disk(const fs::path& folder) : root_(folder.string()) {
  add({true, {}, {}});
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const int parent = find(entry.path().parent_path());
    const int node = add({entry.is_directory(), entry.is_directory() ? "" : testing::read_bytes(entry.path()), {}});
    nodes_[static_cast<size_t>(parent)].names[entry.path().filename()] = node;
  }
}

int Disk::add(Node node) {
  nodes_.push_back(std::move(node));
  return static_cast<int>(nodes_.size()) - 1;
}

void Disk::apply(const std::vector<Change>& names) {
  for (const Change& change : names) {
    auto& held = nodes_[static_cast<size_t>(change.folder)].names;
    if (change.node < 0)
      held.erase(change.name);
    else
      held[change.name] = change.node;
  }
}

int Disk::find(const std::string& path) const {
  int node = 0;
  for (const fs::path& part : fs::path(path).lexically_relative(root_)) {
    if (part == ".") continue;
    const auto& names = nodes_[static_cast<size_t>(node)].names;
    const auto found = names.find(part);
    if (found == names.end()) return -1;
    node = found->second;
  }
  return node;
}

void Disk::collect(int node, const std::string& path, Files& files) const {
  const Node& at = nodes_[static_cast<size_t>(node)];
  if (!at.folder) files[path] = at.data;
  for (const auto& [name, child] : at.names) collect(child, path.empty() ? name : path + "/" + name, files);
}

Disk::Files Disk::files(const std::string& below) const {
  Files files;
  if (const int node = find(root_ + "/" + below); node >= 0) collect(node, "", files);
  return files;
}

size_t Disk::hash() const {
  std::string all;
  for (const auto& [name, bytes] : files()) all.append(name).append(1, '\0').append(bytes).append(1, '\0');
  const std::function<void(int)> folders = [&](int node) {
    for (const auto& [name, child] : nodes_[static_cast<size_t>(node)].names) all.append(name), folders(child);
    all.append(1, '/');
  };
  folders(0);  // empty ones, too
  return std::hash<std::string>()(all);
}

void Disk::write_to(const fs::path& folder) const {
  const std::function<void(int, const fs::path&)> put = [&](int node, const fs::path& path) {
    const Node& at = nodes_[static_cast<size_t>(node)];
    if (!at.folder) {
      std::ofstream(path, std::ios::binary) << at.data;
      return;
    }
    fs::create_directories(path);
    for (const auto& [name, child] : at.names) put(child, path / name);
  };
  put(0, folder);
}

int CrashModel::created(bool folder) { return disk_.add({folder, {}, {}}); }

CrashModel::CrashModel(Disk before, const std::vector<Entry>& journal) : disk_(std::move(before)) {
  Disk now = disk_;  // with every call done: where names lead at each call
  std::map<int, int> open;
  const auto folder_of = [&](const std::string& path) { return now.find(fs::path(path).parent_path()); };
  const auto name_of = [](const std::string& path) { return fs::path(path).filename().string(); };
  const auto make = [&](Effect& effect, const std::string& path, bool folder) {
    const int node = created(folder);
    now.add({folder, {}, {}});
    effect.names = {{folder_of(path), name_of(path), node}};
    return node;
  };
  for (const Entry& entry : journal) {
    Effect effect;
    switch (entry.call) {
      case Call::kOpen: {
        int node = now.find(entry.path);
        if (node < 0) {
          if (!entry.writes) throw std::logic_error("opened, but not in the model: " + entry.path);
          node = make(effect, entry.path, false);
        }
        if (entry.empties) effect.node = node, effect.truncates = true;
        open[entry.fd] = node;
        break;
      }
      case Call::kWrite:
        effect.node = open.at(entry.fd), effect.offset = entry.offset, effect.data = entry.data;
        break;
      case Call::kTruncate:
        effect.node = open.at(entry.fd), effect.offset = entry.offset, effect.truncates = true;
        break;
      case Call::kSync:
        effect.synced = open.at(entry.fd);
        break;
      case Call::kRename:
        effect.names = {{folder_of(entry.other), name_of(entry.other), -1},
                        {folder_of(entry.path), name_of(entry.path), now.find(entry.other)}};
        break;
      case Call::kExchange:
        effect.names = {{folder_of(entry.other), name_of(entry.other), now.find(entry.path)},
                        {folder_of(entry.path), name_of(entry.path), now.find(entry.other)}};
        break;
      case Call::kMakeFolder:
        make(effect, entry.path, true);
        break;
      case Call::kUnlink:
      case Call::kRemoveFolder:
        effect.names = {{folder_of(entry.path), name_of(entry.path), -1}};
        break;
      case Call::kClose:
        open.erase(entry.fd);
        break;
    }
    now.apply(effect.names);
    if (effect.synced >= 0)
      for (Effect& earlier : effects_) {
        const bool reached =
            earlier.names.empty() ? earlier.node == effect.synced : earlier.names.back().folder == effect.synced;
        if (reached) earlier.certain = std::min(earlier.certain, effects_.size());
      }
    effects_.push_back(std::move(effect));
  }
}

Disk CrashModel::after(size_t calls, const Chance& chance) const {
  Disk disk = disk_;
  for (size_t i = 0; i < calls; ++i) {
    const Effect& effect = effects_[i];
    const bool is_name = !effect.names.empty();
    if (!is_name && effect.node < 0) continue;
    const Fate fate = effect.certain < calls ? Fate::kKept : chance(is_name);
    if (fate == Fate::kDropped) continue;
    disk.apply(effect.names);
    if (effect.node < 0) continue;
    std::string& data = disk.nodes_[static_cast<size_t>(effect.node)].data;
    const auto offset = static_cast<size_t>(effect.offset);
    if (effect.truncates) {
      data.resize(offset);
      continue;
    }
    const size_t size = fate == Fate::kPrefix ? effect.data.size() / 2 : effect.data.size();
    data.resize(std::max(data.size(), offset + size));
    if (fate == Fate::kZeros)
      data.replace(offset, size, size, '\0');
    else
      data.replace(offset, size, effect.data, 0, size);
  }
  return disk;
}

std::vector<Disk> CrashModel::states_after(size_t calls) const {
  std::vector<Disk> states;
  for (const Fate names : {Fate::kKept, Fate::kDropped})
    for (const Fate bytes : {Fate::kKept, Fate::kDropped, Fate::kPrefix, Fate::kZeros})
      if (names == Fate::kKept || bytes == Fate::kKept || bytes == Fate::kDropped)
        states.push_back(after(calls, [&](bool is_name) { return is_name ? names : bytes; }));
  Random random(calls);
  for (int64_t i = 0; i < flags.states; ++i)
    states.push_back(after(calls, [&](bool is_name) {
      if (is_name) return random.below(2) ? Fate::kKept : Fate::kDropped;
      return static_cast<Fate>(random.below(4));
    }));
  return states;
}

}  // namespace rankfold::faults
