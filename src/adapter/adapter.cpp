#include "rankfold/adapter.h"

#include "adapter/adapter_files.h"
#include "adapter/peft_format.h"
#include "core/check.h"
#include "core/file.h"
#include "core/manifest.h"
#include "core/write.h"
#include "io/tensor_writer.h"
#include "model/decoder.h"
#include "ops/finite.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/GradMode.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <map>

namespace rankfold {
namespace fs = std::filesystem;

struct Adapter::State {
  std::shared_ptr<Decoder> decoder;  // attached to; kept alive
  bool full = false;
  LoraConfig config;
  std::vector<std::string> modules;
  std::vector<Parameter> parameters;
  at::Tensor values, gradient;
  int64_t decayed = 0;

  // Lays the named shapes out in one flat buffer and makes each a leaf on its slice.
  void allocate(const std::vector<std::tuple<std::string, std::vector<int64_t>, bool>>& shapes);
};

namespace {

struct Slot {
  Projection* projection;
  Module* module;
};
std::map<std::string, Slot> slots(Decoder& decoder) {
  std::map<std::string, Slot> by_name;
  for (Projection* p : decoder.projections())
    for (Module& m : p->modules) by_name[m.name] = {p, &m};
  return by_name;
}

void claim(Decoder& decoder) {
  RANKFOLD_CHECK(!decoder.has_adapter, "the model has an adapter already; load the model again for another");
  decoder.has_adapter = true;
}

}  // namespace

void Adapter::State::allocate(const std::vector<std::tuple<std::string, std::vector<int64_t>, bool>>& shapes) {
  int64_t total = 0;
  for (const auto& [name, shape, decay] : shapes) total += c10::multiply_integers(shape);
  values = at::zeros({total}, at::TensorOptions(decoder->device).dtype(at::kFloat));
  gradient = at::zeros_like(values);
  int64_t begin = 0;
  for (const auto& [name, shape, decay] : shapes) {
    const int64_t count = c10::multiply_integers(shape);
    RANKFOLD_ASSERT(!decay || decayed == begin);  // decayed ones come first
    if (decay) decayed += count;
    // detach(): a leaf of its own, not a view with a gradient function; it shares storage and version counter.
    at::Tensor value = values.narrow(0, begin, count).view(shape).detach();
    value.requires_grad_(true);
    value.mutable_grad() = gradient.narrow(0, begin, count).view(shape).detach();
    parameters.push_back({name, value});
    begin += count;
  }
}

namespace {

// Attaches A and B leaves for every match; returns the state with zero values.
template <class State>
void attach(State& state, const std::vector<ModuleMatch>& matches, int64_t seed) {
  Decoder& decoder = *state.decoder;
  auto by_name = slots(decoder);
  std::vector<std::tuple<std::string, std::vector<int64_t>, bool>> shapes;
  for (const ModuleMatch& match : matches) {
    const Slot& slot = by_name.at(match.module.name);
    shapes.emplace_back(lora_key(match.module.name, "A"), std::vector<int64_t>{match.r, slot.projection->in_features()},
                        true);
    shapes.emplace_back(lora_key(match.module.name, "B"),
                        std::vector<int64_t>{slot.module->end - slot.module->begin, match.r}, true);
  }
  state.allocate(shapes);
  for (size_t i = 0; i < matches.size(); ++i) {
    Module& m = *by_name.at(matches[i].module.name).module;
    m.a = state.parameters[2 * i].value;
    m.b = state.parameters[2 * i + 1].value;
    m.scale = matches[i].scale;
    m.index = static_cast<int64_t>(i);
    state.modules.push_back(m.name);
  }
  decoder.dropout = state.config.lora_dropout;
  decoder.seed = static_cast<uint64_t>(seed);
}

}  // namespace

Adapter Adapter::create(const CausalLM& model, const LoraConfig& config, int64_t seed) {
  Adapter adapter;
  adapter.state_ = std::make_shared<State>();
  State& state = *adapter.state_;
  state.decoder = model.shared_decoder();
  state.config = config;
  const std::vector<ModuleMatch> matches = match_modules(config, model.linear_modules());
  claim(*state.decoder);
  attach(state, matches, seed);
  // PEFT's kaiming_uniform_ with a = sqrt(5): uniform in +-1 / sqrt(in_features). B stays zero.
  auto generator = at::detail::createCPUGenerator(static_cast<uint64_t>(seed));
  at::NoGradGuard no_grad;
  for (size_t i = 0; i < state.parameters.size(); i += 2) {
    at::Tensor& a = state.parameters[i].value;
    const double bound = 1 / std::sqrt(static_cast<double>(a.size(1)));
    a.copy_(at::empty(a.sizes(), at::kFloat).uniform_(-bound, bound, generator));  // the same values on every device
  }
  return adapter;
}

Adapter Adapter::load(const CausalLM& model, const fs::path& folder, int64_t seed) {
  const AdapterFolder stored = read_checked_adapter(folder);
  const std::vector<ModuleMatch> matches = match_adapter(stored, model.linear_modules());
  Adapter adapter;
  adapter.state_ = std::make_shared<State>();
  State& state = *adapter.state_;
  state.decoder = model.shared_decoder();
  state.config = stored.config;
  claim(*state.decoder);
  attach(state, matches, seed);
  at::NoGradGuard no_grad;
  for (size_t i = 0; i < matches.size(); ++i) {
    const auto& [a, b] = stored.tensors.at(matches[i].module.name);
    state.parameters[2 * i].value.copy_(a);
    state.parameters[2 * i + 1].value.copy_(b);
  }
  return adapter;
}

Adapter Adapter::full(const CausalLM& model) {
  Adapter adapter;
  adapter.state_ = std::make_shared<State>();
  State& state = *adapter.state_;
  state.decoder = model.shared_decoder();
  state.full = true;
  Decoder& decoder = *state.decoder;
  claim(decoder);
  decoder.companions = std::make_shared<const Companions>(decoder.folder);

  // Modules of a projection lie one after the other, so that in fp32 the projection's weight is a view of the masters.
  std::vector<std::tuple<std::string, std::vector<int64_t>, bool>> shapes;
  std::vector<at::Tensor> initial;
  const auto add = [&](const std::string& name, const at::Tensor& weight, bool decay) {
    shapes.emplace_back(name, weight.sizes().vec(), decay);
    initial.push_back(weight);
  };
  add(decoder.embedding_name, decoder.embedding, true);
  for (Projection* p : decoder.projections()) {
    if (decoder.is_tied(p)) continue;
    for (const Module& m : p->modules)
      add(m.name + ".weight", p->current_weight().narrow(0, m.begin, m.end - m.begin), true);
  }
  for (const Norm* norm : decoder.norms()) add(norm->name, norm->weight, false);
  state.allocate(shapes);

  at::NoGradGuard no_grad;
  for (size_t i = 0; i < initial.size(); ++i) state.parameters[i].value.copy_(initial[i]);
  initial.clear();
  for (const TensorFile& file : decoder.folder.files())  // all of it is copied
    for (const TensorInfo& tensor : file.tensors()) file.forget(tensor.name);
  size_t next = 1;
  decoder.embedding_master = state.parameters[0].value;
  for (Projection* p : decoder.projections()) {
    if (decoder.is_tied(p)) {
      p->modules[0].master = decoder.embedding_master;
      p->weight = decoder.dtype == at::kFloat ? decoder.embedding_master.detach() : p->weight.clone();
      continue;
    }
    const at::Tensor first = state.parameters[next].value;
    for (Module& m : p->modules) m.master = state.parameters[next++].value;
    p->weight = decoder.dtype == at::kFloat
                    ? state.values.narrow(0, first.storage_offset(), p->weight.numel()).view(p->weight.sizes()).detach()
                    : p->weight.clone();
    // The copy of a 16-bit weight is exact; -1 makes the first use write it all the same.
    for (Module& m : p->modules) m.master_version = static_cast<uint32_t>(-1);
  }
  for (Norm* norm : decoder.norms()) norm->master = state.parameters[next++].value;
  decoder.embedding = decoder.embedding_master.detach();
  return adapter;
}

bool Adapter::is_full() const { return state_->full; }
const LoraConfig& Adapter::config() const { return state_->config; }
const std::vector<std::string>& Adapter::modules() const { return state_->modules; }
int64_t Adapter::parameter_count() const { return state_->values.numel(); }
std::vector<at::Tensor> Adapter::parameters() const {
  std::vector<at::Tensor> leaves;
  for (const Parameter& p : state_->parameters) leaves.push_back(p.value);
  return leaves;
}
const std::vector<Parameter>& Adapter::named_parameters() const { return state_->parameters; }
at::Tensor Adapter::flat_values() const { return state_->values; }
at::Tensor Adapter::flat_gradient() const { return state_->gradient; }
int64_t Adapter::decayed_count() const { return state_->decayed; }

namespace {

// The whole model under the base's file names, each tensor in its stored dtype; what does not train is copied.
void write_model(const Decoder& decoder, const std::vector<Parameter>& parameters, const fs::path& target) {
  std::map<std::string, at::Tensor> trained;
  for (const Parameter& p : parameters) trained[p.name] = p.value.detach();
  for (const TensorFile& file : decoder.folder.files()) {
    TensorWriter writer(target / file.path().filename(), file.tensors(), file.metadata());
    for (const TensorInfo& info : writer.tensors()) {
      const auto found = trained.find(info.name);
      const at::Tensor stored = found == trained.end() ? file.tensor(info.name) : found->second.to(info.dtype);
      if (found != trained.end() && !ops::all_finite(stored))
        throw Error(ExitCode::kDiverged, join(info.name, ": a value does not fit ", info.dtype, "; not saved"));
      writer.add(info.name, stored);
    }
    writer.commit();
  }
  decoder.companions->copy_to(target);
}

}  // namespace

void write_adapter_files(const Adapter& adapter, const Decoder& decoder, const fs::path& folder) {
  if (adapter.is_full()) return write_model(decoder, adapter.named_parameters(), folder);
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const Parameter& p : adapter.named_parameters()) tensors.emplace_back(p.name, p.value.detach());
  write_adapter_folder(folder, adapter.config(), decoder.folder.path().string(), tensors);
}

AdapterFolder read_checked_adapter(const fs::path& folder) {
  const auto chosen = [](const std::string& name) { return name.starts_with("adapter_"); };
  return read_result(folder, Look::kAtContents, chosen, [&] { return read_adapter_folder(folder); });
}

void Adapter::save(const fs::path& folder) const {
  FileSet files(folder);
  write_adapter_files(*this, *state_->decoder, files.path());
  commit_result(files, nlohmann::json::object());
}

}  // namespace rankfold
