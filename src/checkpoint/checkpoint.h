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

// Writes output_dir/checkpoint-<step> through a temporary name; `fill` writes the files into the folder it is given. A
// manifest with sizes and checksums is added.
void save_checkpoint(const std::filesystem::path& output_dir, int64_t step,
                     const std::function<void(const std::filesystem::path&)>& fill);

// All checkpoint-N folders of output_dir by number, newest first, whole or not.
std::vector<Checkpoint> list_checkpoints(const std::filesystem::path& output_dir);

// What is wrong with it by its manifest; empty: it is whole.
std::string damage(const std::filesystem::path& checkpoint);

// The newest whole one; `say` hears which were skipped and why.
std::optional<Checkpoint> newest_checkpoint(const std::filesystem::path& output_dir, const Messages& say);

// Keeps the newest `limit` checkpoints up to `step` (this run's; 0: all).
void remove_old_checkpoints(const std::filesystem::path& output_dir, int64_t step, int64_t limit);

}  // namespace rankfold
