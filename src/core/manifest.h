// manifest.json: the files that a folder of ours holds, with sizes and checksums. It is the last that is written, so a
// folder with one holds the files of one save. Layout: docs/formats.md.
#pragma once

#include "core/write.h"

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <functional>
#include <string>

namespace rankfold {

inline constexpr const char* kManifest = "manifest.json";
inline constexpr const char* kRun = "run.json";  // in an output_dir: the run that it belongs to

// Lists every file of the folder; `facts` stand beside the list.
void write_manifest(const std::filesystem::path& folder, const nlohmann::json& facts);

// Gives the files a manifest and moves them into their folder. Meanwhile there is a manifest that says "unfinished" and
// holds the one before and the one after.
void commit_result(FileSet& files, const nlohmann::json& facts);

// manifest.json, an empty object where there is none. UserError where it is not as it was written.
nlohmann::json read_manifest(const std::filesystem::path& folder);

enum class Look { kAtSizes, kAtContents };
using Chosen = std::function<bool(const std::string& name)>;

// What differs from the folder's manifest; empty: it is whole.
std::string damage(const std::filesystem::path& folder, Look look = Look::kAtContents, const Chosen& chosen = {});

// Refuses a result whose files are not, or may not be, of one save. Of a folder without a manifest of ours nothing is
// known.
void check_result(const std::filesystem::path& folder, Look look, const Chosen& chosen);

std::string manifest_text(const std::filesystem::path& folder);  // empty where there is none

// What `read` gives of a folder that is checked so, of one save also where a run writes its result there meanwhile.
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
