// manifest.json lists the files of a folder that we write, with sizes and checksums. It is written last, so a folder
// that has one contains the files of one save. Layout: docs/formats.md.
#pragma once

#include "core/write.h"

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <functional>
#include <string>

namespace rankfold {

inline constexpr const char* kManifest = "manifest.json";
inline constexpr const char* kRun = "run.json";  // in an output_dir: identifies its run

// Writes the manifest: every file of the folder, and the keys of `facts`.
void write_manifest(const std::filesystem::path& folder, const nlohmann::json& facts);

// Writes a manifest for the files and moves them into their folder. Until the move is complete, the folder has a
// manifest that says "unfinished" and contains both the old one and the new one.
void commit_result(FileSet& files, const nlohmann::json& facts);

// Reads manifest.json; an empty object where there is none. Throws UserError for one that we did not write in this
// form.
nlohmann::json read_manifest(const std::filesystem::path& folder);

enum class Look { kAtSizes, kAtContents };
using Chosen = std::function<bool(const std::string& name)>;

// Returns how the files differ from the folder's manifest; empty: they do not. `chosen`: which files to check; empty:
// all.
std::string damage(const std::filesystem::path& folder, Look look = Look::kAtContents, const Chosen& chosen = {});

// Throws UserError if the files of a result are not, or may not be, from one save. A folder without our manifest
// passes.
void check_result(const std::filesystem::path& folder, Look look, const Chosen& chosen);

std::string manifest_text(const std::filesystem::path& folder);  // empty where there is none

// Checks the folder and returns read(). Repeats this if the manifest changes meanwhile, so the result is from one save
// even while a run writes there.
template <class Read>
auto read_result(const std::filesystem::path& folder, Look look, const Chosen& chosen, const Read& read) {
  for (;;) {
    const std::string before = manifest_text(folder);
    check_result(folder, look, chosen);
    auto result = read();
    if (manifest_text(folder) == before) return result;
  }
}

}  // namespace rankfold
