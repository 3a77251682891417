// checkpoint-N folders: whole or not there. Layout and protocol: docs/formats.md.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace rankfold {

struct Checkpoint {
  std::filesystem::path path;
  int64_t step = 0;
};

using Messages = std::function<void(const std::string&)>;

// A fresh start marks output_dir with a new id (run.json); checkpoints carry the id of their run. What an earlier run
// left in the folder is neither resumed by itself nor deleted.
std::string start_run(const std::filesystem::path& output_dir);
void continue_run(const std::filesystem::path& output_dir, const std::string& run_id);
std::string run_of(const std::filesystem::path& folder);  // by its run.json or manifest.json; empty where there is none

// Writes output_dir/checkpoint-<step> through a temporary name; `fill` writes the files into the folder it is given. A
// manifest with sizes and checksums is added.
void save_checkpoint(const std::filesystem::path& output_dir, const std::string& run_id, int64_t step,
                     const std::function<void(const std::filesystem::path&)>& fill);

// All checkpoint-N folders of output_dir by number, newest first, whole or not, of any run.
std::vector<Checkpoint> list_checkpoints(const std::filesystem::path& output_dir);

// What is wrong with it by its manifest; empty: it is whole.
std::string damage(const std::filesystem::path& checkpoint);

// The newest whole one of output_dir's run; `say` hears which were skipped and why. Where there are some but none is
// whole: Error(kResumeRefused), as starting again would hide the loss.
std::optional<Checkpoint> newest_checkpoint(const std::filesystem::path& output_dir, const Messages& say);

// Keeps the newest `limit` checkpoints of this run (0: all).
void remove_old_checkpoints(const std::filesystem::path& output_dir, const std::string& run_id, int64_t limit);

}  // namespace rankfold
