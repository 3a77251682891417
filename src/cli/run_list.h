// Lists the runs below a folder, with their state, progress and parents.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <ctime>
#include <filesystem>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

namespace rankfold {

enum class RunState { kFinished, kStopped, kRunning, kCheckpoint };

struct ListedRun {
  std::filesystem::path path;
  std::string name = {};  // path relative to the folder that is listed
  std::string problem;    // why nothing else is known: it is broken, or another tool wrote it
  std::string run_id = {};
  std::string parent_id = {};    // of the run that it started from; else of the run that wrote its base
  std::string parent_path = {};  // that run's folder, as the user gave it; empty: no parent
  std::string method = {};       // lora or full; empty: not known yet
  RunState state = RunState::kStopped;
  int64_t step = 0;
  std::optional<int64_t> total_steps = {};
  std::optional<double> loss = {};  // the last one logged
  std::optional<double> eval_loss = {}, best_eval_loss = {};
  int64_t best_step = 0;
  uint64_t bytes = 0;       // of all its files, checkpoints included
  std::time_t changed = 0;  // its newest file; 0: not known
  nlohmann::ordered_json settings = {};
};

// Every run at most kDeepestRun folders below `folder`, in the order of their names. A folder that links reach twice is
// searched once. A run that cannot be read has `problem` and is no error. Throws UserError if `folder` is not a folder.
inline constexpr int kDeepestRun = 16;
std::vector<ListedRun> find_runs(const std::filesystem::path& folder);

// Prints the tree of parents, the best run, and the settings that differ, in lines of at most 100 columns.
void print_runs(std::ostream& out, const std::filesystem::path& folder, const std::vector<ListedRun>& runs);

}  // namespace rankfold
