#include "rankfold/adapter.h"

#include "adapter/adapter_files.h"
#include "adapter/flat_leaves.h"
#include "adapter/full_tuning.h"
#include "adapter/peft_format.h"
#include "core/check.h"
#include "core/config.h"
#include "core/file.h"
#include "core/guard.h"
#include "core/manifest.h"
#include "core/write.h"
#include "model/model.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>

namespace rankfold {
namespace fs = std::filesystem;

struct Adapter::State {
  explicit State(const CausalLM& m) : model(m.shared_model()) {}

  std::shared_ptr<Model> model;  // attached to; kept alive
  bool is_full = false;
  LoraConfig config;
  std::vector<std::string> modules;
  FlatLeaves leaves;
  std::shared_ptr<const Attachment> attachment;  // of its name and updates; full tuning has the name alone
};

namespace {

void check_seed(int64_t seed) {
  if (seed < 0) fail("seed: expected an integer of 0 or more, got ", seed);
}

// A and B of every match as leaves, and the model with them: a model that runs out of memory here has no new adapter.
// initialise(module, "A" or "B", value)
template <class State>
void attach_updates(State& state, const std::string& name, const std::vector<ModuleMatch>& matches, int64_t seed,
                    const std::function<void(const std::string&, const std::string&, const at::Tensor&)>& initialise) {
  state.model->adapters.check_name(name);  // before anything is allocated
  std::vector<Leaf> leaves;
  for (const ModuleMatch& match : matches) {
    const LinearModule& m = match.module;
    const auto add = [&, module = m.name](const std::string& which, std::vector<int64_t> shape) {
      leaves.push_back(
          {.key = lora_key(module, which),
           .shape = std::move(shape),
           .initialise = [&, module, which](const at::Tensor& value) { initialise(module, which, value); }});
    };
    add("A", {match.r, m.in_features});
    add("B", {m.out_features, match.r});
  }
  state.leaves = FlatLeaves(leaves, state.model->device);
  const auto attachment = std::make_shared<Attachment>();
  attachment->name = name;
  attachment->dropout = {.probability = state.config.lora_dropout, .seed = static_cast<uint64_t>(seed)};
  for (size_t i = 0; i < matches.size(); ++i) {
    const std::string& module = matches[i].module.name;
    LowRank& update = attachment->updates[module];
    update.a = state.leaves.leaf(lora_key(module, "A"));
    update.b = state.leaves.leaf(lora_key(module, "B"));
    update.scale = matches[i].scale;
    update.index = static_cast<int64_t>(i);
    state.modules.push_back(module);
  }
  state.attachment = attachment;
  state.model->adapters.attach(attachment);
}

std::vector<std::string> names_of(const std::vector<ModuleMatch>& matches) {
  std::vector<std::string> names;
  for (const ModuleMatch& match : matches) names.push_back(match.module.name);
  return names;
}

}  // namespace

void refuse_head(const CausalLM& model, const std::vector<std::string>& modules) {
  const ModelConfig& config = model.config();
  if (!config.tie_word_embeddings && !config.has_norm_head) return;
  for (const LinearModule& module : model.linear_modules()) {
    if (!module.is_head || std::find(modules.begin(), modules.end(), module.name) == modules.end()) continue;
    const std::string source = (model.folder() / "config.json").string();
    if (config.has_norm_head)
      fail("target_modules: ", module.name, " of ", source,
           " has rows that are divided by their norms (norm_head, as in Baichuan 2): PEFT does not adapt such a layer "
           "either; leave it out");
    fail("target_modules: ", module.name, " shares its weight with the embedding (tie_word_embeddings in ", source,
         "): an adapter on it cannot be merged; leave it out, or untie the weights first");
  }
}

Adapter Adapter::create(const CausalLM& model, const LoraConfig& config, int64_t seed, const std::string& name) try {
  check_fields(config);
  check_seed(seed);
  const std::vector<ModuleMatch> matches = match_modules(config, model.linear_modules());
  refuse_head(model, names_of(matches));
  Adapter adapter;
  adapter.state_ = std::make_shared<State>(model);
  adapter.state_->config = config;
  // PEFT's kaiming_uniform_ with a = sqrt(5): uniform in +-1 / sqrt(in_features). B stays zero.
  auto generator = at::detail::createCPUGenerator(static_cast<uint64_t>(seed));
  attach_updates(*adapter.state_, name, matches, seed,
                 [&](const std::string&, const std::string& which, const at::Tensor& value) {
                   if (which != "A") return;
                   const double bound = 1 / std::sqrt(static_cast<double>(value.size(1)));
                   // Drawn on the CPU: the same values on every device.
                   value.copy_(at::empty(value.sizes(), at::kFloat).uniform_(-bound, bound, generator));
                 });
  return adapter;
} catch (...) {
  rethrow_as_error();
}

Adapter Adapter::load(const CausalLM& model, const fs::path& folder, int64_t seed, const std::string& name) try {
  check_seed(seed);
  const AdapterFolder stored = read_checked_adapter(folder);
  const std::vector<ModuleMatch> matches = match_adapter(stored, model.linear_modules());
  if (model.config().has_norm_head) refuse_head(model, names_of(matches));  // a tied one computes as in PEFT
  Adapter adapter;
  adapter.state_ = std::make_shared<State>(model);
  adapter.state_->config = stored.config;
  attach_updates(*adapter.state_, name, matches, seed,
                 [&](const std::string& module, const std::string& which, const at::Tensor& value) {
                   const auto& [a, b] = stored.tensors.at(module);
                   value.copy_(which == "A" ? a : b);
                 });
  return adapter;
} catch (...) {
  rethrow_as_error();
}

Adapter Adapter::full(const CausalLM& model) try {
  Adapter adapter;
  adapter.state_ = std::make_shared<State>(model);
  State& state = *adapter.state_;
  state.is_full = true;
  const auto attachment = std::make_shared<Attachment>();
  attachment->name = "full";
  state.attachment = attachment;
  state.leaves = train_all(*state.model);
  return adapter;
} catch (...) {
  rethrow_as_error();
}

const std::string& Adapter::name() const { return state_->attachment->name; }
bool Adapter::is_full() const { return state_->is_full; }
const LoraConfig& Adapter::config() const { return state_->config; }
const std::vector<std::string>& Adapter::modules() const { return state_->modules; }
int64_t Adapter::parameter_count() const { return state_->leaves.values.numel(); }
std::vector<at::Tensor> Adapter::parameters() const {
  std::vector<at::Tensor> leaves;
  for (const Parameter& p : named_parameters()) leaves.push_back(p.value);
  return leaves;
}
const std::vector<Parameter>& Adapter::named_parameters() const { return state_->leaves.parameters(); }
at::Tensor Adapter::flat_values() const { return state_->leaves.values; }
at::Tensor Adapter::flat_gradient() const { return state_->leaves.gradient; }
int64_t Adapter::decayed_count() const { return state_->leaves.decayed; }

bool Adapter::is_of(const CausalLM& model) const { return state_->model == model.shared_model(); }
bool Adapter::is_active() const { return is_full() || state_->model->adapters.is_active(*state_->attachment); }

void Adapter::detach() const try {
  RANKFOLD_CHECK(!is_full(), "the model itself is trained: there is no adapter to detach");
  state_->model->adapters.detach(*state_->attachment);
} catch (...) {
  rethrow_as_error();
}

void Adapter::attach() const try {
  RANKFOLD_CHECK(!is_full(), "the model itself is trained: there is no adapter to attach");
  state_->model->adapters.attach(state_->attachment);
} catch (...) {
  rethrow_as_error();
}

bool Adapter::is_of_folder() const { return is_full() || state_->model->adapters.is_of_folder(*state_->attachment); }

void check_is_of_folder(const Adapter& adapter, const Model& model) {
  if (adapter.is_of_folder()) return;
  fail("the adapter '", adapter.name(), "' belongs to weights that another adapter was merged into in memory, not to ",
       model.folder.path().string(), ": merge() that one into a folder, load it, and train there");
}

void write_adapter_files(const Adapter& adapter, const Model& model, const fs::path& folder) {
  if (adapter.is_full()) return write_trained_model(model, adapter.named_parameters(), folder);
  check_is_of_folder(adapter, model);
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const Parameter& p : adapter.named_parameters()) tensors.emplace_back(p.name, p.value.detach());
  write_adapter_folder(folder, adapter.config(), model.folder.path().string(), tensors);
}

AdapterFolder read_checked_adapter(const fs::path& folder) {
  const auto chosen = [](const std::string& name) { return name.starts_with("adapter_"); };
  return read_result(folder, Look::kAtContents, chosen, [&] { return read_adapter_folder(folder); });
}

void Adapter::save(const fs::path& folder) const try {
  FileSet files(folder);
  write_adapter_files(*this, *state_->model, files.path());
  commit_result(files, nlohmann::json::object());
} catch (...) {
  rethrow_as_error();
}

}  // namespace rankfold
