#include "rankfold/adapter.h"

#include "adapter/adapter_files.h"
#include "adapter/flat_leaves.h"
#include "adapter/full_tuning.h"
#include "adapter/peft_format.h"
#include "core/card_file.h"
#include "core/check.h"
#include "core/config.h"
#include "core/file.h"
#include "core/guard.h"
#include "core/manifest.h"
#include "core/row_chunks.h"
#include "core/write.h"
#include "model/model.h"
#include "model/tensor_list.h"

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
  std::map<std::string, at::Tensor> untrained;   // what the adapter's files bring besides, by key: views of them
};

namespace {

void check_seed(int64_t seed) {
  if (seed < 0) fail("seed: expected an integer of 0 or more, got ", seed);
}

// How the leaves begin: initialise a module's A or B, or what stands in place of a tensor of the base.
struct Values {
  std::function<void(const LinearModule& module, const std::string& which, const at::Tensor& value)> of_update;
  std::function<void(const WholeTensor& tensor, const at::Tensor& value)> of_tensor;
};

std::vector<Leaf> leaves_of(const AdapterParts& parts, const BaseParts& base, const Values& values) {
  std::vector<Leaf> leaves;
  for (const ModuleMatch& match : parts.modules) {
    const LinearModule& m = match.module;
    const auto add = [&](const std::string& which, std::vector<int64_t> shape) {
      leaves.push_back({.key = lora_key(m, which),
                        .shape = std::move(shape),
                        .initialise = [&values, &m, which](const at::Tensor& x) { values.of_update(m, which, x); }});
    };
    add("A", {match.r, m.in_features});
    add("B", {m.out_features, match.r});
  }
  for (const WholeTensor& tensor : parts.tensors) {
    if (!tensor.trains) continue;
    const std::vector<int64_t>& shape = base.tensors.at(tensor.name);
    leaves.push_back({.key = tensor.key,
                      .shape = shape,
                      .is_decayed = shape.size() > 1,
                      .initialise = [&values, &tensor](const at::Tensor& x) { values.of_tensor(tensor, x); }});
  }
  return leaves;
}

// Those that do not train, in the model's dtype; each file's tensor once, though it may stand for two that are tied.
std::map<std::string, at::Tensor> frozen_values(const AdapterFolder& stored, const AdapterParts& parts,
                                                const Model& model) {
  std::map<std::string, at::Tensor> values;  // by key
  for (const WholeTensor& tensor : parts.tensors)
    if (!tensor.trains && !values.contains(tensor.key))
      values[tensor.key] = stored.whole.at(tensor.key).to(model.device).to(model.dtype);
  return values;
}

// The parts as leaves, and the model with them: a model that runs out of memory here has no new adapter.
template <class State>
void attach_parts(State& state, const std::string& name, const AdapterParts& parts, const BaseParts& base, int64_t seed,
                  const Values& values, const std::map<std::string, at::Tensor>& frozen) {
  state.model->adapters.check_name(name);  // before anything is allocated
  state.leaves = FlatLeaves(leaves_of(parts, base, values), state.model->device);
  const auto attachment = std::make_shared<Attachment>();
  attachment->name = name;
  attachment->dropout = {.probability = state.config.lora_dropout, .seed = static_cast<uint64_t>(seed)};
  for (size_t i = 0; i < parts.modules.size(); ++i) {
    const LinearModule& module = parts.modules[i].module;
    LowRank& update = module.is_embedding ? attachment->embedding_update.emplace() : attachment->updates[module.name];
    update.a = state.leaves.leaf(lora_key(module, "A"));
    update.b = state.leaves.leaf(lora_key(module, "B"));
    update.scale = parts.modules[i].scale;
    update.index = static_cast<int64_t>(i);
    state.modules.push_back(module.name);
  }
  for (const WholeTensor& tensor : parts.tensors) {
    const at::Tensor& value = tensor.trains ? state.leaves.leaf(tensor.key) : frozen.at(tensor.key);
    (tensor.name == base.embedding ? attachment->embedding : attachment->tensors[tensor.name]) = value;
  }
  state.attachment = attachment;
  state.model->adapters.attach(attachment);
}

// A view of a dense weight, else a copy.
at::Tensor rows_of(FrozenWeight& weight, int64_t begin, int64_t end) {
  if (DenseWeight* dense = weight.dense()) return dense->value().narrow(0, begin, end - begin);
  const at::Tensor rows =
      at::empty({end - begin, weight.columns()}, at::TensorOptions(weight.device()).dtype(weight.dtype()));
  weight.copy_rows(begin, rows);
  return rows;
}

// The base's tensor as the model computes with it, which an adapter may have been merged into; as the folder stores it
// where its rows are normalised.
at::Tensor base_value(Model& model, const BaseParts& base, const std::string& name) {
  Network& network = model.adapters.base();
  if (name == base.embedding) return rows_of(*network.embedding, 0, network.embedding->rows());
  for (const Norm* norm : network.norms())
    if (norm->name == name) return norm->weight;
  for (Projection* p : network.projections())
    for (const Module& m : p->modules) {
      if (name == m.name + kBiasSuffix) return p->bias.narrow(0, m.begin, m.end - m.begin);
      if (name == m.name + kWeightSuffix)
        return p->has_unit_rows ? model.folder.tensor(name) : rows_of(p->current(), m.begin, m.end);
    }
  RANKFOLD_ASSERT(false);
  return {};
}

// As the folder has it, where one of two tied tensors may not be stored. Undefined: in fewer bits.
at::Tensor stored_value(const Model& model, const BaseParts& base, const std::string& name) {
  const bool is_twin = base.is_tied && !model.folder.contains(name);
  const std::string& stored = !is_twin ? name : name == base.head ? base.embedding : base.head;
  if (model.quantized && stored.ends_with(kWeightSuffix) &&
      model.quantized->holds(stored.substr(0, stored.size() - std::string_view(kWeightSuffix).size())))
    return {};
  return model.folder.contains(stored) ? model.folder.tensor(stored) : at::Tensor();
}

// Without the tensors that the base has itself, as PEFT saves those of its embeddings beside their updates.
void drop_base_values(const AdapterFolder& stored, const BaseParts& base, const Model& model, AdapterParts& parts) {
  std::erase_if(parts.tensors, [&](const WholeTensor& tensor) {
    if (tensor.trains) return false;
    const at::Tensor value = stored_value(model, base, tensor.name);
    return value.defined() && same_values(stored.whole.at(tensor.key), value);
  });
}

bool names_hold(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::vector<std::string> names_of(const std::vector<ModuleMatch>& matches) {
  std::vector<std::string> names;
  for (const ModuleMatch& match : matches) names.push_back(match.module.name);
  return names;
}

}  // namespace

bool same_values(const at::Tensor& x, const at::Tensor& y) {
  bool same = x.sizes() == y.sizes();
  constexpr int64_t kElements = 1 << 22;  // fp32 at a time
  const int64_t columns = x.dim() > 1 ? x.size(1) : 1;
  for_row_chunks(x.size(0), columns, kElements, [&](int64_t row, int64_t count) {
    same = same && x.narrow(0, row, count).to(at::kFloat).equal(y.narrow(0, row, count).to(at::kFloat));
  });
  return same;
}

void refuse_head(const CausalLM& model, const std::vector<std::string>& modules) {
  const ModelConfig& config = model.config();
  if (!config.tie_word_embeddings && !config.has_norm_head) return;
  for (const LinearModule& module : parts_of(*model.shared_model()).modules) {
    const bool is_one = module.is_head || (module.is_embedding && config.tie_word_embeddings);
    if (!is_one || !names_hold(modules, module.name)) continue;
    const std::string source = (model.folder() / "config.json").string();
    if (config.has_norm_head)
      fail("target_modules: ", module.name, " of ", source,
           " has rows that are divided by their norms (norm_head, as in Baichuan 2): PEFT does not adapt such a layer "
           "either; leave it out");
    fail("target_modules: ", module.name, " shares its weight with the ", module.is_head ? "embedding" : "head",
         " (tie_word_embeddings in ", source,
         "): an adapter on it cannot be merged; leave it out, or untie the weights first");
  }
}

Adapter Adapter::create(const CausalLM& model, const LoraConfig& config, int64_t seed, const std::string& name) try {
  check_fields(config);
  check_seed(seed);
  const BaseParts base = parts_of(*model.shared_model());
  AdapterParts parts;
  parts.modules = match_modules(config, base.modules);
  parts.tensors = match_tensors(config, parts.modules, base);
  refuse_head(model, names_of(parts.modules));
  Adapter adapter;
  adapter.state_ = std::make_shared<State>(model);
  State& state = *adapter.state_;
  state.config = config;
  // PEFT's kaiming_uniform_ with a = sqrt(5): uniform in +-1 / sqrt(in_features). B stays zero. Of an embedding A does, and
  // B is normal. Drawn on the CPU: the same values on every device.
  auto generator = at::detail::createCPUGenerator(static_cast<uint64_t>(seed));
  const auto draw = [&](const LinearModule& module, const std::string& which, const at::Tensor& value) {
    if (which != (module.is_embedding ? "B" : "A")) return;
    const double bound = 1 / std::sqrt(static_cast<double>(value.size(1)));
    const at::Tensor drawn = at::empty(value.sizes(), at::kFloat);
    value.copy_(module.is_embedding ? drawn.normal_(0, 1, generator) : drawn.uniform_(-bound, bound, generator));
  };
  const auto copy = [&](const WholeTensor& tensor, const at::Tensor& value) {
    value.copy_(base_value(*state.model, base, tensor.name));
  };
  attach_parts(state, name, parts, base, seed, {draw, copy}, {});
  return adapter;
} catch (...) {
  rethrow_as_error();
}

Adapter Adapter::load(const CausalLM& model, const fs::path& folder, int64_t seed, const std::string& name) try {
  check_seed(seed);
  const AdapterFolder stored = read_checked_adapter(folder);
  const BaseParts base = parts_of(*model.shared_model());
  AdapterParts parts = match_adapter(stored, base);
  if (model.config().has_norm_head) refuse_head(model, names_of(parts.modules));  // a tied one computes as in PEFT
  Adapter adapter;
  adapter.state_ = std::make_shared<State>(model);
  State& state = *adapter.state_;
  state.config = stored.config;
  if (!state.model->adapters.has_merged()) drop_base_values(stored, base, *state.model, parts);
  const auto read = [&](const LinearModule& module, const std::string& which, const at::Tensor& value) {
    const auto& [a, b] = stored.tensors.at(module.name);
    value.copy_(which == "A" ? a : b);
  };
  const auto copy = [&](const WholeTensor& tensor, const at::Tensor& value) {
    value.copy_(stored.whole.at(tensor.key));
  };
  attach_parts(state, name, parts, base, seed, {read, copy}, frozen_values(stored, parts, *state.model));
  for (const WholeTensor& tensor : parts.tensors)
    if (!tensor.trains) state.untrained.try_emplace(tensor.key, stored.whole.at(tensor.key));
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
const std::map<std::string, at::Tensor>& Adapter::untrained_tensors() const { return state_->untrained; }
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

void write_adapter_files(const Adapter& adapter, const Model& model, const fs::path& folder, const std::string& card) {
  if (adapter.is_full()) {
    write_trained_model(model, adapter.named_parameters(), folder);
    if (!card.empty()) write_text(folder / kCard, card);
    return;
  }
  check_is_of_folder(adapter, model);
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const Parameter& p : adapter.named_parameters()) tensors.emplace_back(p.name, p.value.detach());
  std::map<std::string, at::Tensor> more = adapter.untrained_tensors();
  if (saves_base_weights(adapter.config(), adapter.modules())) {
    const BaseParts base = parts_of(model);
    for (const LinearModule& m : base.modules)
      if ((m.is_head || m.is_embedding) && names_hold(adapter.modules(), m.name))
        if (const at::Tensor value = stored_value(model, base, m.name + kWeightSuffix); value.defined())
          more.try_emplace(base_weight_key(m.name), value);
  }
  tensors.insert(tensors.end(), more.begin(), more.end());
  write_adapter_folder(folder, adapter.config(), model.folder.path().string(), tensors, card);
}

AdapterFolder read_checked_adapter(const fs::path& folder) {
  const auto chosen = [](const std::string& name) { return name.starts_with("adapter_"); };
  return read_result(folder, Look::kAtContents, chosen, [&] { return read_adapter_folder(folder); });
}

void Adapter::save(const fs::path& folder) const try {
  FileSet files(folder);
  write_adapter_files(*this, *state_->model, files.path());
  keep_own_readme(files.path(), folder);
  commit_result(files, nlohmann::json::object());
} catch (...) {
  rethrow_as_error();
}

}  // namespace rankfold
