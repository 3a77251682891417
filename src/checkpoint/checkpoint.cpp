#include "checkpoint/checkpoint.h"

#include "core/check.h"
#include "core/checksum.h"
#include "core/file.h"
#include "core/json.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <random>

namespace rankfold {
namespace fs = std::filesystem;
namespace {

constexpr const char* kManifest = "manifest.json";
constexpr const char* kRun = "run.json";

nlohmann::json describe(const fs::path& file) {
  uint64_t checksum = kChecksumSeed;
  const uint64_t size = fs::file_size(file);
  if (size > 0) checksum = checksum64(Mapping::open(file)->bytes());
  return {{"size", size}, {"checksum", checksum_text(checksum)}};
}

std::vector<fs::path> files_of(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file() && entry.path().filename() != kManifest) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

void continue_run(const fs::path& output_dir, const std::string& run_id) {
  write_text(output_dir / kRun, nlohmann::json{{"run_id", run_id}}.dump(2) + "\n");
}

std::string start_run(const fs::path& output_dir) {
  std::random_device device;  // an id, no part of any result
  const uint64_t id = (static_cast<uint64_t>(device()) << 32) | device();
  continue_run(output_dir, checksum_text(id));
  return checksum_text(id);
}

std::string run_of(const fs::path& folder) {
  for (const char* name : {kManifest, kRun}) {
    std::error_code error;
    if (!fs::is_regular_file(folder / name, error)) continue;
    const nlohmann::json json = read_json(folder / name);
    if (json.is_object() && json.contains("run_id") && json["run_id"].is_string()) return json["run_id"];
  }
  return "";
}

void save_checkpoint(const fs::path& output_dir, const std::string& run_id, int64_t step,
                     const std::function<void(const fs::path&)>& fill) {
  const fs::path target = output_dir / ("checkpoint-" + std::to_string(step));
  AtomicFolder folder(target);
  fill(folder.path());
  nlohmann::json files = nlohmann::json::object();
  for (const fs::path& file : files_of(folder.path())) files[file.filename().string()] = describe(file);
  write_text(folder.path() / kManifest,
             nlohmann::json{{"format_version", 1}, {"run_id", run_id}, {"step", step}, {"files", files}}.dump(2));
  // A run resumed from an earlier step meets its own later checkpoints again: the old one steps aside until the new one
  // stands.
  const fs::path aside = target.string() + ".old.tmp";
  std::error_code ignored;
  fs::remove_all(aside, ignored);
  const bool replaced = fs::exists(target);
  if (replaced) fs::rename(target, aside);
  folder.commit();
  if (replaced) fs::remove_all(aside, ignored);
}

std::vector<Checkpoint> list_checkpoints(const fs::path& output_dir) {
  std::vector<Checkpoint> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(output_dir, error)) {
    const std::string name = entry.path().filename().string();
    const std::string prefix = "checkpoint-";
    if (!name.starts_with(prefix) || name.size() == prefix.size() || name.size() > prefix.size() + 18) continue;
    const std::string digits = name.substr(prefix.size());
    if (!std::all_of(digits.begin(), digits.end(), [](unsigned char c) { return std::isdigit(c); })) continue;
    if (entry.is_directory(error)) found.push_back({entry.path(), std::stoll(digits)});
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.step > b.step; });
  return found;
}

std::string damage(const fs::path& checkpoint) {
  try {
    const fs::path path = checkpoint / kManifest;
    if (!fs::exists(path)) return "it has no manifest.json";
    const nlohmann::json manifest = read_json(path);
    if (!manifest.is_object() || !manifest.contains("files") || !manifest["files"].is_object())
      return "manifest.json lists no files";
    if (manifest.value("format_version", 0) != 1)
      return "manifest.json: expected format_version 1, got " +
             manifest.value("format_version", nlohmann::json()).dump();
    for (const auto& [name, expected] : manifest["files"].items()) {
      const fs::path file = checkpoint / fs::path(name).filename();
      if (!fs::is_regular_file(file)) return name + " is missing";
      if (describe(file) != expected) return name + " differs from manifest.json";
    }
    return "";
  } catch (const std::exception& error) {
    return error.what();
  }
}

std::optional<Checkpoint> newest_checkpoint(const fs::path& output_dir, const Messages& say) {
  const std::string run = run_of(output_dir);
  std::string first_problem;
  for (const Checkpoint& checkpoint : list_checkpoints(output_dir)) {
    const std::string problem = damage(checkpoint.path);
    if (problem.empty()) {
      if (run.empty() || run_of(checkpoint.path) == run) return checkpoint;
      if (say) say("passed over " + checkpoint.path.string() + ": it is of an earlier run");
      continue;
    }
    if (say) say("skipped " + checkpoint.path.string() + ": " + problem);
    if (first_problem.empty()) first_problem = checkpoint.path.string() + ": " + problem;
  }
  if (!first_problem.empty())
    throw Error(ExitCode::kResumeRefused, output_dir.string() + ": no checkpoint is whole (" + first_problem + ")");
  return std::nullopt;
}

void remove_old_checkpoints(const fs::path& output_dir, const std::string& run_id, int64_t limit) {
  if (limit <= 0) return;
  int64_t kept = 0;
  for (const Checkpoint& checkpoint : list_checkpoints(output_dir)) {
    try {
      if (run_of(checkpoint.path) != run_id || ++kept <= limit) continue;
    } catch (const Error&) {
      continue;  // cannot be read: not known to be ours
    }
    std::error_code error;
    fs::remove_all(checkpoint.path, error);  // what cannot be deleted stays
  }
}

}  // namespace rankfold
