// The lineage of a run: the adapters that it and its parents started from, and the run that wrote its base. It is in
// run.json, in the manifests of checkpoints and results (docs/formats.md), and in the model card.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace rankfold {

// Key in a result's manifest: the step of its values, if that is not the run's last step.
inline constexpr const char* kStepOfValues = "step_of_values";

// A folder that a run started from. run_id and step are empty if lora-train did not write it.
struct Ancestor {
  std::string path;  // as it was given
  std::string run_id = {};
  std::optional<int64_t> step = {};  // of the values in it
  std::string checksum = {};         // of the adapter's file; empty for a base
};

struct Lineage {
  std::vector<Ancestor> parents;  // adapters: the run's own, then that one's, ...
  std::optional<Ancestor> base;   // if a run of lora-train wrote it
};

// The lineage of a run on this base that starts from this adapter (empty: a new adapter, or the base itself). Throws
// UserError or StorageError if the adapter cannot be read.
Lineage lineage_of(const std::filesystem::path& base, const std::filesystem::path& adapter);

nlohmann::json lineage_json(const Lineage& lineage);  // an object; it leaves out empty parts
// From run.json or a manifest. Parts in another format count as absent.
Lineage read_lineage(const nlohmann::json& facts);

}  // namespace rankfold
