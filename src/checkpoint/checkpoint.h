// checkpoint-N folders: whole or not there. Layout and protocol: docs/formats.md.
#pragma once

#include "core/manifest.h"

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
  std::string run_id = {};  // by its manifest; empty where that is not one of this step
  int64_t save = 0;         // number of the save: the newest is the one written last, which may be of an earlier step
};

using Messages = std::function<void(const std::string&)>;

// A fresh start marks output_dir with a new id (run.json); checkpoints carry the id of their run. What an earlier run
// left in the folder is neither resumed by itself nor deleted. `facts`: an object that run.json holds besides; may be null.
std::string start_run(const std::filesystem::path& output_dir, const nlohmann::json* facts = nullptr);
void continue_run(const std::filesystem::path& output_dir, const std::string& run_id,
                  const nlohmann::json* facts = nullptr);
std::string run_of(const std::filesystem::path& folder);  // by its run.json or manifest.json; empty where there is none

// Takes away what a crash or a failing disk has left in the middle of a save. For the process that holds the folder's
// lock.
void clean_up(const std::filesystem::path& output_dir);

// Writes output_dir/checkpoint-<step> through a temporary name; `fill` writes the files into the folder it is given. A
// manifest with sizes and checksums is added. One of this run of the same number gives way to it; any other is kept as
// checkpoint-<step>-of-<its run's id, or unknown>. `facts`: an object that the manifest holds besides; may be null.
void save_checkpoint(const std::filesystem::path& output_dir, const std::string& run_id, int64_t step,
                     const std::function<void(const std::filesystem::path&)>& fill,
                     const nlohmann::json* facts = nullptr);

// All that is called checkpoint-N in output_dir, whole or not, of any run: what has no readable manifest first, then the
// newest first. StorageError where the folder is there but cannot be listed.
std::vector<Checkpoint> list_checkpoints(const std::filesystem::path& output_dir);

// A folder that another trainer (Hugging Face's) has left: an adapter or a model and the state of its training, without a
// manifest. Nothing of lora-train's can go on from there.
bool is_foreign_checkpoint(const std::filesystem::path& folder);
inline constexpr const char* kForeignCheckpoint =
    "another trainer wrote it, whose state cannot be gone on from; start from its adapter with adapter_name_or_path";

// The newest whole one of output_dir's run; `say` hears which were skipped and why. Where there are some but none is
// whole: Error(kResumeRefused), as starting again would hide the loss.
std::optional<Checkpoint> newest_checkpoint(const std::filesystem::path& output_dir, const Messages& say);

// Keeps the newest `limit` checkpoints of this run (0: all), that of step `best` (0: none), and what is of other runs.
void remove_old_checkpoints(const std::filesystem::path& output_dir, const std::string& run_id, int64_t limit,
                            int64_t best = 0);

// Copies the checkpoint of step `step` with the facts of its manifest into output_dir, where it counts as older than
// any other. False: there is none in `from` that is whole and of the run `run_id`. One that is there already stays.
// StorageError where it cannot be written.
bool carry_checkpoint(const std::filesystem::path& from, const std::filesystem::path& output_dir,
                      const std::string& run_id, int64_t step);
// Whether output_dir has the checkpoint, whole and of this run.
bool has_checkpoint(const std::filesystem::path& output_dir, const std::string& run_id, int64_t step);

}  // namespace rankfold
