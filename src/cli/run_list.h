// The runs below a folder: what each is, how far it came, what it came from.
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
  std::string name = {};  // below the folder that was asked for
  std::string problem;    // why nothing else is known: broken, or another tool's
  std::string run_id = {};
  std::string parent_id = {};    // of the run that it started from; else of the one that made its base
  std::string parent_path = {};  // as that run's folder was given; empty: it has no parent
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

// Every run at most kDeepestRun folders down, in the order of their names. A folder that is a link is looked into once.
// Of what cannot be read a run has `problem`: nothing below the folder is an error. UserError where `folder` is none.
inline constexpr int kDeepestRun = 16;
std::vector<ListedRun> find_runs(const std::filesystem::path& folder);

// The tree by parents, which is best, and which settings differ; lines of at most 100 columns.
void print_runs(std::ostream& out, const std::filesystem::path& folder, const std::vector<ListedRun>& runs);

}  // namespace rankfold
