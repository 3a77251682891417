// checkpoint-N folders, written atomically. Layout and protocol: docs/formats.md.
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
  std::string run_id = {};  // from its manifest; empty if that is not a manifest of this step
  int64_t save = 0;         // number of the save; the newest checkpoint has the largest, but perhaps an earlier step
};

using Messages = std::function<void(const std::string&)>;

// Starts a new run: writes run.json with a new id, and returns the id. Checkpoints have the id of their run. Those of
// an earlier run in the folder are neither resumed automatically nor deleted. `facts`: an object with more keys for
// run.json; may be null.
std::string start_run(const std::filesystem::path& output_dir, const nlohmann::json* facts = nullptr);
void continue_run(const std::filesystem::path& output_dir, const std::string& run_id,
                  const nlohmann::json* facts = nullptr);
std::string run_of(const std::filesystem::path& folder);  // the id in run.json or manifest.json, else empty

// Removes what a crash or a failing disk left in the middle of a save. The process must have the folder's lock.
void clean_up(const std::filesystem::path& output_dir);

// Writes output_dir/checkpoint-<step> through a temporary name; `fill` writes the files into the folder it is given. A
// manifest with sizes and checksums is added. It replaces a checkpoint of the same run and step. One of another run is
// renamed to checkpoint-<step>-of-<its run's id, or unknown>. `facts`: more keys for the manifest; may be null.
void save_checkpoint(const std::filesystem::path& output_dir, const std::string& run_id, int64_t step,
                     const std::function<void(const std::filesystem::path&)>& fill,
                     const nlohmann::json* facts = nullptr);

// All folders checkpoint-N in output_dir, complete or not, of any run. Those without a readable manifest come first,
// then the others, the newest first. Throws StorageError if the folder exists but cannot be listed.
std::vector<Checkpoint> list_checkpoints(const std::filesystem::path& output_dir);

// Whether another trainer (Hugging Face's) wrote the folder: an adapter or a model with training state, but no
// manifest. lora-train cannot resume from it.
bool is_foreign_checkpoint(const std::filesystem::path& folder);
inline constexpr const char* kForeignCheckpoint =
    "another trainer wrote it, whose state cannot be gone on from; start from its adapter with adapter_name_or_path";

// The newest complete checkpoint of output_dir's run. Passes to `say` which were skipped and why. Throws
// Error(kResumeRefused) if there are some but none is complete, because starting again would hide the loss.
std::optional<Checkpoint> newest_checkpoint(const std::filesystem::path& output_dir, const Messages& say);

// Deletes old checkpoints of this run. It keeps the newest `limit` (0: all), that of step `best` (0: none), and those
// of other runs. Damaged ones do not count and are not deleted.
void remove_old_checkpoints(const std::filesystem::path& output_dir, const std::string& run_id, int64_t limit,
                            int64_t best = 0);

// Copies the checkpoint of step `step`, with its manifest's facts, from `from` into output_dir. There it counts as
// older than any other. An existing one stays. Returns false if `from` has no complete one of the run `run_id`. Throws
// StorageError if it cannot be written.
bool carry_checkpoint(const std::filesystem::path& from, const std::filesystem::path& output_dir,
                      const std::string& run_id, int64_t step);
// Whether output_dir has a complete checkpoint of this step and run.
bool has_checkpoint(const std::filesystem::path& output_dir, const std::string& run_id, int64_t step);

}  // namespace rankfold
