#include "checkpoint/checkpoint.h"

#include "core/check.h"
#include "core/checksum.h"
#include "core/file.h"
#include "core/json.h"
#include "core/write.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cctype>
#include <random>

namespace rankfold {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kPrefix = "checkpoint-";

// N of checkpoint-N<suffix>.
std::optional<int64_t> number_of(const std::string& name, std::string_view suffix = "") {
  if (!name.starts_with(kPrefix) || !name.ends_with(suffix) || name.size() <= kPrefix.size() + suffix.size()) return {};
  const std::string digits = name.substr(kPrefix.size(), name.size() - kPrefix.size() - suffix.size());
  if (digits.size() > 18) return {};
  if (!std::all_of(digits.begin(), digits.end(), [](unsigned char c) { return std::isdigit(c); })) return {};
  return std::stoll(digits);
}

std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> found;
  if (what_stands_at(folder) == "nothing") return found;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
    found.push_back(entry->path());
  if (error) storage_failed(error.value(), folder.string(), ": cannot be listed: ", error.message());
  return found;
}

// A free name for what stands in the way of a checkpoint of another run.
fs::path aside(const Checkpoint& other) {
  const std::string name = join(other.path.string(), "-of-", other.run_id.empty() ? "unknown" : other.run_id);
  fs::path path = name;
  for (int i = 2; what_stands_at(path) != "nothing"; ++i) path = join(name, "-", i);
  return path;
}

std::string run_id_in(const nlohmann::json& json) {
  return json.is_object() && json.contains("run_id") && json["run_id"].is_string() ? json["run_id"] : "";
}

}  // namespace

void continue_run(const fs::path& output_dir, const std::string& run_id, const nlohmann::json* facts) {
  nlohmann::json run = facts ? *facts : nlohmann::json::object();
  run["run_id"] = run_id;
  write_text(output_dir / kRun, run.dump(2) + "\n");
}

std::string start_run(const fs::path& output_dir, const nlohmann::json* facts) {
  std::random_device device;  // an id, no part of any result
  const uint64_t id = (static_cast<uint64_t>(device()) << 32) | device();
  continue_run(output_dir, checksum_text(id), facts);
  return checksum_text(id);
}

std::string run_of(const fs::path& folder) {
  for (const char* name : {kRun, kManifest})
    if (what_stands_at(folder / name) != "nothing") return run_id_in(read_json(folder / name));
  return "";
}

void clean_up(const fs::path& output_dir) {
  for (const fs::path& path : entries_of(output_dir)) {
    const std::string name = path.filename().string();
    const auto replaced = number_of(name, kAside);
    const fs::path own = output_dir / join(kPrefix, replaced.value_or(0));
    if (replaced && what_stands_at(own) == "nothing")
      rename_folder(path, own);  // it had stepped aside for one that has not come
    else if (replaced || name.ends_with(kUnfinished) || name == kStaging)
      remove_folder(path);
    else if (name.starts_with(kProbe))
      remove_file(path);
  }
}

namespace {

// Makes room for one of this run: what another run has left under its name, as far as can be told, is kept aside.
void step_aside(const fs::path& output_dir, const std::string& run_id, int64_t step) {
  for (const Checkpoint& other : list_checkpoints(output_dir))
    if (other.run_id != run_id && other.step == step) rename_folder(other.path, aside(other));
}

}  // namespace

void save_checkpoint(const fs::path& output_dir, const std::string& run_id, int64_t step,
                     const std::function<void(const fs::path&)>& fill, const nlohmann::json* facts) {
  int64_t save = 1;
  for (const Checkpoint& other : list_checkpoints(output_dir))
    if (other.run_id == run_id) save = std::max(save, other.save + 1);
  step_aside(output_dir, run_id, step);
  AtomicFolder folder(output_dir / join(kPrefix, step));
  fill(folder.path());
  nlohmann::json manifest = facts ? *facts : nlohmann::json::object();
  manifest.update({{"run_id", run_id}, {"step", step}, {"save", save}});
  write_manifest(folder.path(), manifest);
  folder.commit_over();
}

std::vector<Checkpoint> list_checkpoints(const fs::path& output_dir) {
  std::vector<Checkpoint> unread, found;
  for (const fs::path& path : entries_of(output_dir)) {
    const auto number = number_of(path.filename().string());
    if (!number) continue;
    Checkpoint checkpoint{path, *number};
    try {
      const nlohmann::json manifest = read_manifest(path);
      if (manifest.value("step", nlohmann::json()) == *number) checkpoint.run_id = run_id_in(manifest);
      if (manifest.contains("save") && manifest["save"].is_number_integer()) checkpoint.save = manifest["save"];
    } catch (const Error&) {  // the caller sees by the empty id that it is none to rely on
    }
    (checkpoint.run_id.empty() ? unread : found).push_back(std::move(checkpoint));
  }
  const auto newer = [](const Checkpoint& a, const Checkpoint& b) {
    return std::tie(a.save, a.step) > std::tie(b.save, b.step);
  };
  std::sort(unread.begin(), unread.end(), newer);
  std::sort(found.begin(), found.end(), newer);
  unread.insert(unread.end(), found.begin(), found.end());
  return unread;
}

bool is_foreign_checkpoint(const fs::path& folder) {
  if (what_stands_at(folder / kManifest) != "nothing") return false;
  for (const char* name : {"adapter_config.json", "training_args.bin", "optimizer.pt", "scheduler.pt"})
    if (what_stands_at(folder / name) == "a file") return true;
  return false;
}

std::optional<Checkpoint> newest_checkpoint(const fs::path& output_dir, const Messages& say) {
  const std::string run = run_of(output_dir);
  std::string first_problem;
  for (const Checkpoint& checkpoint : list_checkpoints(output_dir)) {
    const std::string name = checkpoint.path.string();
    if (!run.empty() && !checkpoint.run_id.empty() && checkpoint.run_id != run) {
      if (say) say("passed over " + name + ": it is of an earlier run");
      continue;
    }
    std::string problem = damage(checkpoint.path);
    if (!problem.empty() && what_stands_at(checkpoint.path) == "a folder" && is_foreign_checkpoint(checkpoint.path))
      problem = kForeignCheckpoint;
    if (problem.empty() && checkpoint.run_id.empty()) problem = "manifest.json is of another step or of no run";
    if (problem.empty()) return checkpoint;
    if (say) say("skipped " + name + ": " + problem);
    if (first_problem.empty()) first_problem = name + ": " + problem;
  }
  if (!first_problem.empty())
    throw Error(ExitCode::kResumeRefused, output_dir.string() + ": no checkpoint is whole (" + first_problem + ")");
  return std::nullopt;
}

bool has_checkpoint(const fs::path& output_dir, const std::string& run_id, int64_t step) {
  const fs::path path = output_dir / join(kPrefix, step);
  try {
    const nlohmann::json manifest = read_manifest(path);
    return run_id_in(manifest) == run_id && manifest.value("step", nlohmann::json()) == step && damage(path).empty();
  } catch (const Error&) {
    return false;
  }
}

bool carry_checkpoint(const fs::path& from, const fs::path& output_dir, const std::string& run_id, int64_t step) {
  if (has_checkpoint(output_dir, run_id, step)) return true;
  if (!has_checkpoint(from, run_id, step)) return false;
  const fs::path source = from / join(kPrefix, step);
  step_aside(output_dir, run_id, step);
  AtomicFolder folder(output_dir / join(kPrefix, step));
  nlohmann::json manifest = read_manifest(source);
  for (const auto& entry : manifest.at("files").items())
    copy_atomically(*File::open(source / entry.key()), folder.path() / entry.key());
  manifest["save"] = 0;
  write_manifest(folder.path(), manifest);
  folder.commit_over();
  return true;
}

void remove_old_checkpoints(const fs::path& output_dir, const std::string& run_id, int64_t limit, int64_t best) {
  if (limit <= 0) return;
  int64_t kept = 0;
  for (const Checkpoint& checkpoint : list_checkpoints(output_dir)) {
    if (checkpoint.run_id != run_id || checkpoint.step == best) continue;
    // The limit is of checkpoints to go on from. One that has lost a file is a person's to look at.
    if (damage(checkpoint.path, Look::kAtSizes).empty() && ++kept > limit) remove_folder(checkpoint.path);
  }
}

}  // namespace rankfold
