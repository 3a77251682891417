#include "core/manifest.h"

#include "core/check.h"
#include "core/checksum.h"
#include "core/file.h"
#include "core/json.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <span>
#include <vector>

namespace rankfold {
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr int kFormatVersion = 2;
constexpr const char *kUnfinished = "unfinished", *kBefore = "before", *kAfter = "after";

json describe(const fs::path& file, Look look) {
  const uint64_t size = fs::file_size(file);
  json described = {{"size", size}};
  if (look == Look::kAtContents)
    described["checksum"] = checksum_text(size > 0 ? checksum64(Mapping::open(file)->bytes()) : kChecksumSeed);
  return described;
}

std::vector<fs::path> files_of(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file() && entry.path().filename() != kManifest) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

// With a checksum of its own, so that the text is the only one that reads as this manifest.
std::string text_of(json manifest) {
  manifest.erase("checksum");
  const std::string facts = manifest.dump();
  manifest["checksum"] = checksum_text(checksum64(std::as_bytes(std::span(facts))));
  return manifest.dump(2) + "\n";
}

// The name is a common one: others write such a file too.
bool is_ours(const json& manifest) {
  return manifest.is_object() &&
         (manifest.contains(kUnfinished) || (manifest.contains("format_version") && manifest.contains("checksum") &&
                                             manifest.contains("files") && manifest["files"].is_object()));
}

// Of the folder's files from a manifest; empty: none.
std::string difference(const fs::path& folder, const json& manifest, Look look, const Chosen& chosen) {
  const json files = manifest.value("files", json());
  if (!files.is_object()) return "manifest.json lists no files";
  for (const auto& [name, expected] : files.items()) {
    if (chosen && !chosen(name)) continue;
    const fs::path file = folder / fs::path(name).filename();
    if (what_stands_at(file) != "a file") return name + " is missing";
    const json found = describe(file, look);
    for (const auto& [key, value] : found.items())
      if (!expected.is_object() || expected.value(key, json()) != value) return name + " differs from manifest.json";
  }
  return "";
}

// A save that was cut short may not have begun to move its files, or have moved them all: then they are of one save all
// the same. Sizes alone do not tell.
bool is_whole_all_the_same(const fs::path& folder, Look look, const Chosen& chosen) {
  if (look != Look::kAtContents) return false;
  const json manifest = read_json(folder / kManifest);
  if (!manifest.is_object() || !manifest.contains(kUnfinished)) return false;
  for (const char* key : {kBefore, kAfter})
    if (const json one = manifest.value(key, json()); one.is_object() && !one.empty())
      if (difference(folder, one, look, chosen).empty()) return true;
  return false;
}

}  // namespace

void write_manifest(const fs::path& folder, const json& facts) {
  json manifest = facts;
  manifest["format_version"] = kFormatVersion;
  manifest["files"] = json::object();
  try {
    for (const fs::path& file : files_of(folder))
      manifest["files"][file.filename().string()] = describe(file, Look::kAtContents);
  } catch (const fs::filesystem_error& error) {
    storage_failed(error.code().value(), error.what());
  } catch (const UserError& error) {  // they are our own, just written: what cannot be read is the disk's fault
    storage_fail(error.what());
  }
  write_text(folder / kManifest, text_of(std::move(manifest)));
}

void commit_result(FileSet& files, const json& facts) {
  write_manifest(files.path(), facts);
  const json after = read_manifest(files.path());
  json before = nullptr;
  try {
    before = read_manifest(files.target());
  } catch (const UserError&) {  // nothing to go back to
  }
  std::vector<std::string> obsolete;
  if (is_ours(before))
    for (const auto& [name, file] : before["files"].items())
      if (!after["files"].contains(name)) obsolete.push_back(name);
  files.commit(kManifest, json{{kUnfinished, true}, {kBefore, before}, {kAfter, after}}.dump(2) + "\n", obsolete);
}

json read_manifest(const fs::path& folder) {
  const fs::path path = folder / kManifest;
  if (what_stands_at(path) == "nothing") return json::object();
  const json manifest = read_json(path);
  if (!manifest.is_object()) fail(path.string(), ": expected an object, got ", brief(manifest));
  if (manifest.contains(kUnfinished)) fail(path.string(), ": the save that it belongs to was not finished");
  if (const json version = manifest.value("format_version", json()); version != kFormatVersion)
    fail(path.string(), ": format_version: expected ", kFormatVersion, ", got ", brief(version));
  if (read_text(path) != text_of(manifest))
    fail(path.string(), ": expected the text that its checksum is of, got another");
  return manifest;
}

std::string damage(const fs::path& folder, Look look, const Chosen& chosen) {
  try {
    const json manifest = read_manifest(folder);
    return manifest.empty() ? "it has no manifest.json" : difference(folder, manifest, look, chosen);
  } catch (const std::exception& error) {
    return error.what();
  }
}

void check_result(const fs::path& folder, Look look, const Chosen& chosen) {
  if (what_stands_at(folder / kManifest) != "a file" || !is_ours(read_json(folder / kManifest))) return;
  const std::string problem = damage(folder, look, chosen);
  if (!problem.empty() && !is_whole_all_the_same(folder, look, chosen))
    fail(folder.string(), ": expected the files of one save, but ", problem,
         "; use a checkpoint in it, or resume the run (if you have changed the file yourself, delete manifest.json)");
}

}  // namespace rankfold
