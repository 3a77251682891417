#include "core/manifest.h"

#include "core/check.h"
#include "core/checksum.h"
#include "core/file.h"
#include "core/json.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cerrno>
#include <new>
#include <span>
#include <vector>

namespace rankfold {
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr int kFormatVersion = 2;
constexpr const char *kCutShort = "unfinished", *kBefore = "before", *kAfter = "after";

// Read, not mapped: a sector that cannot be read is then an error and no signal.
json describe(const fs::path& path, Look look) {
  const std::shared_ptr<const File> file = File::open(path);
  json described = {{"size", file->size()}};
  if (look == Look::kAtContents) described["checksum"] = checksum_text(checksum_of(*file, file->size()));
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
         (manifest.contains(kCutShort) || (manifest.contains("format_version") && manifest.contains("checksum") &&
                                           manifest.contains("files") && manifest["files"].is_object()));
}

// Of the folder's files from a manifest; empty: none.
std::string difference(const fs::path& folder, const json& manifest, Look look, const Chosen& chosen) {
  const json files = manifest.value("files", json());
  if (!files.is_object()) return "manifest.json lists no files";
  for (const auto& [name, expected] : files.items()) {
    if (chosen && !chosen(name)) continue;
    if (fs::path(name).filename() != name) return brief(name) + " in manifest.json is no name of a file";
    const fs::path file = folder / name;
    if (what_stands_at(file) != "a file") return name + " is missing";
    const json found = describe(file, look);
    for (const auto& [key, value] : found.items())
      if (!expected.is_object() || expected.value(key, json()) != value) return name + " differs from manifest.json";
  }
  return "";
}

// A save that was cut short may not have begun to move its files, or have moved them all: then all files are of one save
// all the same. That one's manifest, otherwise null.
json whole_all_the_same(const fs::path& folder, const json& unfinished) {
  for (const char* key : {kAfter, kBefore})
    if (const json one = unfinished.value(key, json()); one.is_object() && !one.empty())
      if (difference(folder, one, Look::kAtContents, {}).empty()) return one;
  return nullptr;
}

// manifest.json if it is one of a save that was cut short, otherwise null.
json unfinished_manifest(const fs::path& folder) {
  if (what_stands_at(folder / kManifest) != "a file") return nullptr;
  const json manifest = read_json(folder / kManifest);
  return manifest.is_object() && manifest.contains(kCutShort) ? manifest : json();
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
  std::vector<json> sets;  // whose files may lie there
  try {
    if (const json unfinished = unfinished_manifest(files.target()); !unfinished.is_null()) {
      before = whole_all_the_same(files.target(), unfinished);
      for (const char* key : {kBefore, kAfter}) sets.push_back(unfinished.value(key, json()));
    } else {
      before = read_manifest(files.target());
      sets.push_back(before);
    }
  } catch (const UserError&) {  // nothing to go back to
  }
  std::vector<std::string> obsolete;
  for (const json& set : sets)
    if (is_ours(set))
      for (const auto& [name, file] : set["files"].items())
        if (!after["files"].contains(name)) obsolete.push_back(name);
  files.commit(kManifest, json{{kCutShort, true}, {kBefore, before}, {kAfter, after}}.dump(2) + "\n", obsolete);
}

json read_manifest(const fs::path& folder) {
  const fs::path path = folder / kManifest;
  if (what_stands_at(path) == "nothing") return json::object();
  const json manifest = read_json(path);
  if (!manifest.is_object()) fail(path.string(), ": expected an object, got ", brief(manifest));
  if (manifest.contains(kCutShort)) fail(path.string(), ": the save that it belongs to was not finished");
  if (const json version = manifest.value("format_version", json()); version != kFormatVersion)
    fail(path.string(), ": format_version: expected ", kFormatVersion, ", got ", brief(version));
  if (read_text(path) != text_of(manifest))
    fail(path.string(), ": expected the text that its checksum is of, got another");
  return manifest;
}

std::string damage(const fs::path& folder, Look look, const Chosen& chosen) {
  try {
    if (const std::string there = what_stands_at(folder); there != "a folder") return "it is " + there;
    const json manifest = read_manifest(folder);
    return manifest.empty() ? "it has no manifest.json" : difference(folder, manifest, look, chosen);
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const StorageError& error) {
    const int number = error.error_number();
    if (number == EMFILE || number == ENFILE || number == ENOMEM) throw;  // which says nothing of the folder
    return error.what();
  } catch (const std::exception& error) {
    return error.what();
  }
}

std::string manifest_text(const fs::path& folder) {
  const fs::path path = folder / kManifest;
  return what_stands_at(path) == "a file" ? read_text(path, kLargestConfig) : "";
}

void check_result(const fs::path& folder, Look look, const Chosen& chosen) {
  if (what_stands_at(folder / kManifest) != "a file" || !is_ours(read_json(folder / kManifest))) return;
  const std::string problem = damage(folder, look, chosen);
  if (problem.empty()) return;
  const json unfinished = look == Look::kAtContents ? unfinished_manifest(folder) : json();  // sizes do not tell
  if (unfinished.is_null() || whole_all_the_same(folder, unfinished).is_null())
    fail(folder.string(), ": expected the files of one save, but ", problem,
         "; use a checkpoint in it, or resume the run (if you have changed the file yourself, delete manifest.json)");
}

}  // namespace rankfold
