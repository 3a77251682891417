#include "cli/run_list.h"

#include "checkpoint/checkpoint.h"
#include "core/check.h"
#include "core/file.h"
#include "core/folder_lock.h"
#include "core/json.h"
#include "core/manifest.h"
#include "train/lineage.h"
#include "train/log_row.h"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <sstream>

namespace rankfold {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr uint64_t kWhole = std::numeric_limits<uint64_t>::max();  // logs of long runs are long

bool has(const fs::path& folder, const char* name) {
  std::error_code ignored;
  return fs::is_regular_file(folder / name, ignored);
}

std::vector<fs::path> folders_in(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    std::error_code ignored;
    if (entry->is_directory(ignored)) found.push_back(entry->path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

// Files of a run and of its checkpoints; links are not followed.
void add_files(const fs::path& folder, ListedRun& run) {
  std::error_code error;
  for (fs::recursive_directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    struct stat status;
    if (::lstat(entry->path().c_str(), &status) != 0 || !S_ISREG(status.st_mode)) continue;
    run.bytes += static_cast<uint64_t>(status.st_size);
    run.changed = std::max(run.changed, status.st_mtime);
  }
}

void read_rows(const std::vector<LogRow>& rows, ListedRun& run) {
  for (const LogRow& row : rows) {
    if (const auto loss = row.metric("loss")) run.loss = *loss;
    const auto eval = row.metric("eval_loss");
    if (!eval) continue;
    run.eval_loss = *eval;
    if (row.step == 0 || !std::isfinite(*eval)) continue;  // no best of a run's
    if (!run.best_eval_loss || *eval < *run.best_eval_loss) run.best_eval_loss = *eval, run.best_step = row.step;
  }
}

std::vector<LogRow> rows_of(const json& history) {
  std::vector<LogRow> rows;
  if (history.is_array())
    for (const json& row : history)
      if (row.is_object() && row.contains("step") && row.contains("epoch")) rows.push_back(read_row(row));
  return rows;
}

// The rows of train_log.jsonl, whose last line may be half written now.
std::vector<LogRow> logged_rows(const fs::path& file) {
  json rows = json::array();
  std::istringstream lines(read_text(file, kWhole));
  for (std::string line; std::getline(lines, line);)
    if (json row = json::parse(line, nullptr, /*allow_exceptions=*/false); row.is_object()) rows.push_back(row);
  return rows_of(rows);
}

// What a result or a checkpoint says of the run that saved it.
void read_saved(const fs::path& folder, const json& manifest, ListedRun& run) {
  run.step = manifest.at("step").get<int64_t>();
  if (has(folder, "rankfold_config.json")) run.settings = read_ordered_json(folder / "rankfold_config.json");
  if (!has(folder, "trainer_state.json")) return;
  const json state = read_json(folder / "trainer_state.json", kWhole);
  if (const json total = state.value("max_steps", json()); total.is_number_integer())
    run.total_steps = total.get<int64_t>();
  read_rows(rows_of(state.value("log_history", json())), run);
}

void read_facts(const json& facts, ListedRun& run) {
  if (const json method = facts.value("finetuning_type", json()); method.is_string())
    run.method = method.get<std::string>();
  if (const json total = facts.value("max_steps", json()); total.is_number_integer())
    run.total_steps = total.get<int64_t>();
  const Lineage lineage = read_lineage(facts);
  const auto take = [&run](const Ancestor& parent) { run.parent_id = parent.run_id, run.parent_path = parent.path; };
  if (!lineage.parents.empty())
    take(lineage.parents.front());
  else if (lineage.base)
    take(*lineage.base);
}

// An output_dir: the newest that the run of its run.json has saved, and its log.
void read_output_dir(const fs::path& folder, ListedRun& run) {
  if (has(folder, kRun)) read_facts(read_json(folder / kRun), run);
  run.run_id = run_of(folder);
  const json result = read_manifest(folder);
  const bool has_result = !result.empty() && result.value("run_id", json()) == run.run_id;
  fs::path saved;
  json manifest;
  if (has_result) saved = folder, manifest = result;
  for (const Checkpoint& checkpoint : list_checkpoints(folder)) {
    if (checkpoint.run_id != run.run_id || (has_result && checkpoint.step <= result.at("step"))) continue;
    saved = checkpoint.path, manifest = read_manifest(checkpoint.path);
    break;  // the newest
  }
  if (!saved.empty()) {
    read_facts(manifest, run);
    read_saved(saved, manifest, run);
  }
  run.state = is_folder_locked(folder) ? RunState::kRunning
              : saved == folder        ? RunState::kFinished
                                       : RunState::kStopped;
  if (!has(folder, "train_log.jsonl")) return;
  const std::vector<LogRow> rows = logged_rows(folder / "train_log.jsonl");
  read_rows(rows, run);
  if (run.state == RunState::kRunning && !rows.empty()) run.step = std::max(run.step, rows.back().step);
}

// A checkpoint that lies where its run does not.
void read_lone_checkpoint(const fs::path& folder, ListedRun& run) {
  const json manifest = read_manifest(folder);
  run.run_id = manifest.at("run_id").get<std::string>();
  run.state = RunState::kCheckpoint;
  read_facts(manifest, run);
  read_saved(folder, manifest, run);
}

// Whether a folder is one to list, and then what it is.
bool read_run(const fs::path& folder, ListedRun& run) {
  const bool is_of_others = has(folder, "adapter_config.json") || has(folder, "trainer_state.json");
  try {
    if (has(folder, kRun) || !list_checkpoints(folder).empty()) {
      read_output_dir(folder, run);
      if (run.run_id.empty()) run.problem = "not a run of lora-train, or one that lost its run.json";
    } else if (!has(folder, kManifest)) {
      if (!is_of_others) return false;
      run.problem = has(folder, "trainer_state.json") ? "a run of another trainer" : "an adapter of another tool";
    } else {
      const json manifest = read_manifest(folder);
      if (manifest.contains("save"))
        read_lone_checkpoint(folder, run);
      else if (manifest.contains("run_id"))
        read_output_dir(folder, run);
      else if (is_of_others)
        run.problem = "an adapter that no run of lora-train has saved";
      else
        return false;
    }
  } catch (const Error& error) {
    run.problem = error.what();
    return is_of_others || has(folder, kRun) || has(folder, kManifest);
  } catch (const json::exception& error) {
    run.problem = one_line(error.what());
  }
  return true;
}

class Search {
 public:
  explicit Search(const fs::path& root) : root_(root) { look(root, 0); }
  std::vector<ListedRun> runs;

 private:
  void look(const fs::path& folder, int depth) {
    struct stat status;
    if (::stat(folder.c_str(), &status) != 0 || !seen_.insert({status.st_dev, status.st_ino}).second) return;
    ListedRun run;
    run.path = folder, run.name = folder.lexically_relative(root_).string();
    const bool is_run = read_run(folder, run);
    if (is_run) {
      add_files(folder, run);
      runs.push_back(std::move(run));
    }
    if (depth == kDeepestRun) return;
    for (const fs::path& below : folders_in(folder)) {
      const std::string name = below.filename().string();
      const bool is_part = is_run && (name.starts_with("checkpoint-") || name == "cache" || name == "runs");
      if (!is_part && !name.ends_with(".tmp")) look(below, depth + 1);
    }
  }

  const fs::path root_;
  std::set<std::pair<dev_t, ino_t>> seen_;
};

}  // namespace

std::vector<ListedRun> find_runs(const fs::path& folder) {
  if (const std::string there = what_stands_at(folder); there != "a folder")
    fail("--list: expected a folder, got ", there == "nothing" ? "no such path" : there, ": ", folder.string());
  return std::move(Search(folder).runs);
}

}  // namespace rankfold
