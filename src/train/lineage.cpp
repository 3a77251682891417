#include "train/lineage.h"

#include "core/check.h"
#include "core/checksum.h"
#include "core/file.h"
#include "core/manifest.h"
#include "rankfold/error.h"

#include <nlohmann/json.hpp>

namespace rankfold {
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr const char *kParents = "parents", *kBaseRun = "base_run";

json manifest_or_nothing(const fs::path& folder) {
  try {
    return read_manifest(folder);
  } catch (const UserError&) {  // of another tool: the name is a common one
    return json::object();
  }
}

Ancestor ancestor_of(const fs::path& folder, const json& manifest) {
  Ancestor ancestor{.path = one_line(folder.string())};
  if (const json id = manifest.value("run_id", json()); id.is_string()) ancestor.run_id = id.get<std::string>();
  for (const char* key : {"step", kStepOfValues})  // the last that is there counts
    if (const json step = manifest.value(key, json()); step.is_number_integer()) ancestor.step = step.get<int64_t>();
  return ancestor;
}

json ancestor_json(const Ancestor& ancestor) {
  json object = {{"path", ancestor.path}};
  if (!ancestor.run_id.empty()) object["run_id"] = ancestor.run_id;
  if (ancestor.step) object["step"] = *ancestor.step;
  if (!ancestor.checksum.empty()) object["adapter_checksum"] = ancestor.checksum;
  return object;
}

std::optional<Ancestor> read_ancestor(const json& object) {
  if (!object.is_object() || !object.value("path", json()).is_string()) return std::nullopt;
  Ancestor ancestor = ancestor_of(object["path"].get<std::string>(), object);
  if (const json sum = object.value("adapter_checksum", json()); sum.is_string())
    ancestor.checksum = sum.get<std::string>();
  return ancestor;
}

}  // namespace

Lineage lineage_of(const fs::path& base, const fs::path& adapter) {
  Lineage lineage;
  if (const json manifest = manifest_or_nothing(base); manifest.contains("run_id"))
    lineage.base = ancestor_of(base, manifest);
  if (adapter.empty()) return lineage;
  const json manifest = manifest_or_nothing(adapter);
  lineage.parents = read_lineage(manifest).parents;
  Ancestor parent = ancestor_of(adapter, manifest);
  const auto weights = File::open(adapter / "adapter_model.safetensors");
  parent.checksum = checksum_text(checksum_of(*weights, weights->size()));
  lineage.parents.insert(lineage.parents.begin(), parent);
  return lineage;
}

json lineage_json(const Lineage& lineage) {
  json object = json::object();
  for (const Ancestor& parent : lineage.parents) object[kParents].push_back(ancestor_json(parent));
  if (lineage.base) object[kBaseRun] = ancestor_json(*lineage.base);
  return object;
}

Lineage read_lineage(const json& facts) {
  Lineage lineage;
  if (!facts.is_object()) return lineage;
  if (const json parents = facts.value(kParents, json()); parents.is_array())
    for (const json& object : parents)
      if (const auto parent = read_ancestor(object)) lineage.parents.push_back(*parent);
  lineage.base = read_ancestor(facts.value(kBaseRun, json()));
  return lineage;
}

}  // namespace rankfold
