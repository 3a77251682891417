// What came before a run: the adapters that it and its parents started from, and the run that made its base. Stands in
// run.json and in the manifests of checkpoints and results (docs/formats.md), and is what a model card tells.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace rankfold {

// In the manifest of a result that holds the values of another step than the run's last: that step.
inline constexpr const char* kStepOfValues = "step_of_values";

// A folder that a run started from. Without a run_id and a step where no run of ours has written it.
struct Ancestor {
  std::string path;  // as it was given
  std::string run_id = {};
  std::optional<int64_t> step = {};  // of the values in it
  std::string checksum = {};         // of the adapter's file; empty for a base
};

struct Lineage {
  std::vector<Ancestor> parents;  // adapters: the run's own, then that one's, ...
  std::optional<Ancestor> base;   // where a run of ours has made it
};

// Of a run on this base that starts from this adapter (empty: from a new one, or from the base). UserError or
// StorageError where the adapter cannot be read.
Lineage lineage_of(const std::filesystem::path& base, const std::filesystem::path& adapter);

nlohmann::json lineage_json(const Lineage& lineage);  // an object; without what there is none of
// Of run.json or a manifest. What is not as we write it counts as not there.
Lineage read_lineage(const nlohmann::json& facts);

}  // namespace rankfold
