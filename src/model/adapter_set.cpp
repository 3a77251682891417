#include "model/adapter_set.h"

#include "core/check.h"
#include "model/tensor_list.h"
#include "ops/finite.h"
#include "ops/fold.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <utility>

namespace rankfold {

AdapterSet::AdapterSet(Network base, Decoder& decoder) : decoder_(decoder) {
  use(std::make_shared<Network>(std::move(base)), {}, {});
}

bool AdapterSet::holds(const Attached& attachments, const Attachment& attachment) {
  return std::any_of(attachments.begin(), attachments.end(),
                     [&](const auto& other) { return other.get() == &attachment; });
}

std::vector<std::string> AdapterSet::names_of(const Attached& attachments) {
  std::vector<std::string> names;
  for (const auto& attachment : attachments) names.push_back(attachment->name);
  return names;
}

std::vector<std::string> AdapterSet::names() const { return names_of(attached_); }
std::vector<std::string> AdapterSet::active() const { return names_of(active_); }

bool AdapterSet::is_active(const Attachment& attachment) const { return holds(active_, attachment); }

void AdapterSet::check_name(const std::string& name) const {
  RANKFOLD_CHECK(!is_full(), "the model itself is trained (Adapter::full); load it again for an adapter");
  for (const auto& other : attached_)
    RANKFOLD_CHECK(other->name != name, "the model has an adapter '", name,
                   "' already; detach it, or give another name");
}

void AdapterSet::attach(std::shared_ptr<const Attachment> attachment) {
  check_name(attachment->name);
  Attached attached = attached_;
  attached.push_back(attachment);
  use(base_, std::move(attached), {std::move(attachment)});
}

void AdapterSet::activate(const std::vector<std::string>& names) {
  RANKFOLD_CHECK(!is_full(), "the model itself is trained (Adapter::full): it has no adapters");
  const std::vector<std::string> there = this->names();
  for (const std::string& name : names)
    RANKFOLD_CHECK(std::find(there.begin(), there.end(), name) != there.end(), "the model has no adapter '", name, "'");
  Attached active;
  for (const auto& attachment : attached_)
    if (std::find(names.begin(), names.end(), attachment->name) != names.end()) active.push_back(attachment);
  use(base_, attached_, std::move(active));
}

void AdapterSet::detach(const Attachment& attachment) {
  const auto is_it = [&](const auto& other) { return other.get() == &attachment; };
  Attached attached = attached_, active = active_;
  std::erase_if(active, is_it);
  if (std::erase_if(attached, is_it) > 0) use(base_, std::move(attached), std::move(active));
}

namespace {

constexpr uint32_t kNeverWritten = static_cast<uint32_t>(-1);  // makes the first use bring a copy up to date
using Tensors = std::map<std::string, at::Tensor>;

// The weights of a projection that adapters bring, in a matrix of its own: other networks keep the base's.
void take_weights(Projection& p, const Tensors& tensors) {
  std::vector<std::pair<Module*, at::Tensor>> taken;
  for (Module& m : p.modules)
    if (const auto found = tensors.find(m.name + kWeightSuffix); found != tensors.end())
      taken.emplace_back(&m, found->second);
  if (taken.empty()) return;
  const at::Tensor& first = taken[0].second;
  const bool is_all = p.modules.size() == 1 && first.scalar_type() == p.frozen->dtype() && !p.has_unit_rows;
  const at::Tensor weight = is_all ? first.detach() : p.current().copy();
  p.frozen = std::make_shared<DenseWeight>(weight);
  for (const auto& [m, value] : taken) {
    const at::Tensor rows = weight.narrow(0, m->begin, m->end - m->begin);
    if (value.requires_grad())
      m->master = value, m->master_version = kNeverWritten;
    else if (p.has_unit_rows)
      divide_rows_by_norm(value, rows);
    else if (!is_all)
      rows.copy_(value);
  }
}

void take_biases(Projection& p, const Tensors& tensors) {
  bool is_own = false;
  for (Module& m : p.modules) {
    const auto found = tensors.find(m.name + kBiasSuffix);
    if (found == tensors.end()) continue;
    if (!std::exchange(is_own, true)) p.bias = p.bias.clone();
    if (found->second.requires_grad())
      m.bias_master = found->second, m.bias_version = kNeverWritten;
    else
      p.bias.narrow(0, m.begin, m.end - m.begin).copy_(found->second);
  }
}

// Of several adapters no two may bring the same.
void take_tensors(Network& network, const std::vector<std::shared_ptr<const Attachment>>& active) {
  const at::NoGradGuard no_grad;
  Tensors tensors;
  at::Tensor embedding;
  for (const auto& attachment : active) {
    for (const auto& [name, value] : attachment->tensors)
      RANKFOLD_CHECK(tensors.emplace(name, value).second, "two active adapters bring ", name, ", the second is '",
                     attachment->name, "': activate one of them");
    if (!attachment->embedding.defined()) continue;
    RANKFOLD_CHECK(!embedding.defined(), "two active adapters bring ", network.embedding_name, ", the second is '",
                   attachment->name, "': activate one of them");
    embedding = attachment->embedding;
  }
  const auto head = tensors.find(network.head.modules[0].name + kWeightSuffix);
  if (embedding.defined() || head != tensors.end())
    network.is_tied =
        network.is_tied && embedding.defined() && head != tensors.end() && head->second.is_same(embedding);
  if (embedding.defined()) {
    network.embedding = std::make_shared<DenseWeight>(embedding.detach());
    if (embedding.requires_grad()) network.embedding_master = embedding;
  }
  for (Projection* p : network.projections()) take_weights(*p, tensors), take_biases(*p, tensors);
  for (Norm* norm : network.norms())
    if (const auto found = tensors.find(norm->name); found != tensors.end())
      (found->second.requires_grad() ? norm->master : norm->weight) = found->second;
}

}  // namespace

// All that may throw comes before the first change.
void AdapterSet::use(std::shared_ptr<Network> base, Attached attached, Attached active) {
  auto network = std::make_shared<Network>(*base);
  for (Projection* p : network->projections()) p->augmented = nullptr;  // of other updates and biases
  take_tensors(*network, active);
  Dropout dropout;
  for (const auto& attachment : active) {
    if (attachment->embedding_update) network->embedding_updates.push_back(*attachment->embedding_update);
    for (Projection* p : network->projections())
      for (const Module& m : p->modules)
        if (const auto found = attachment->updates.find(m.name); found != attachment->updates.end()) {
          LowRank& update = p->updates.emplace_back(found->second);
          update.begin = m.begin, update.end = m.end;
        }
    if (active.size() == 1) dropout = attachment->dropout;
    dropout.is_mixed = dropout.is_mixed || (active.size() > 1 && attachment->dropout.probability > 0);
  }
  base_ = std::move(base), network_ = std::move(network);
  attached_ = std::move(attached), active_ = std::move(active);
  decoder_.use(network_, dropout);
}

namespace {

// What the projection computes with, as a weight and a bias that do not train.
void fold_projection(Projection& p) {
  if (!p.trains()) return;
  const bool has_master =
      std::any_of(p.modules.begin(), p.modules.end(), [](const Module& m) { return m.master.defined(); });
  if (p.has_update() || has_master) {
    const at::Tensor folded = ops::fold(p.current(), p.updates, p.frozen->dtype());
    if (!ops::all_finite(folded))
      fail(p.modules[0].name, ": expected finite values, base and update added, got NaN or infinity");
    p.frozen = std::make_shared<DenseWeight>(folded);
  }
  if (p.bias.defined()) p.bias = p.current_bias().clone();
  for (Module& m : p.modules) m.master.reset(), m.bias_master.reset();
  p.updates.clear();
  p.augmented = nullptr;
}

void fold_embedding(Network& network) {
  const at::ScalarType dtype = network.norm.weight.scalar_type();
  std::vector<LowRank> updates;  // of rows by tokens
  for (const LowRank& u : network.embedding_updates) {
    LowRank& turned = updates.emplace_back();
    turned.end = network.embedding->rows();
    turned.a = u.b.t(), turned.b = u.a.t(), turned.scale = u.scale;
  }
  if (updates.empty() && !network.embedding_master.defined()) return;
  const at::Tensor folded = ops::fold(*network.embedding, updates, dtype);
  if (!ops::all_finite(folded))
    fail(network.embedding_name, ": expected finite values, base and update added, got NaN or infinity");
  network.embedding = std::make_shared<DenseWeight>(folded);
  network.embedding_master.reset();
  network.embedding_updates.clear();
}

}  // namespace

void AdapterSet::merge_active() {
  const at::NoGradGuard no_grad;
  RANKFOLD_CHECK(!is_full(), "the model itself is trained (Adapter::full): it has no adapters");
  if (active_.empty()) return;
  if (network_->is_tied && (network_->head.has_update() || !network_->embedding_updates.empty()))
    fail(network_->head.modules[0].name,
         " shares its weight with the embedding: an update of one of them cannot be merged into it alone");
  const auto merged = std::make_shared<Network>(*network_);
  for (Projection* p : merged->projections()) fold_projection(*p);
  for (Norm* norm : merged->norms()) {
    if (!norm->master.defined()) continue;
    norm->weight = norm->master.detach().to(norm->weight.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
    norm->master.reset(), norm->copy = {};
  }
  fold_embedding(*merged);
  Attached attached = attached_, all_merged = merged_;
  std::erase_if(attached, [&](const auto& attachment) { return is_active(*attachment); });
  all_merged.insert(all_merged.end(), active_.begin(), active_.end());
  use(merged, std::move(attached), {});
  merged_ = std::move(all_merged);
}

bool AdapterSet::is_of_folder(const Attachment& attachment) const {
  return merged_.empty() || (holds(merged_, attachment) && !holds(attached_, attachment));
}

void AdapterSet::replace_base(Network network) {
  RANKFOLD_CHECK(attached_.empty() && !is_full(),
                 "the model has an adapter already; detach it, or load the model again to train all of it");
  const bool trains = network.embedding_master.defined();
  use(std::make_shared<Network>(std::move(network)), {}, {});
  is_full_ = trains;
}

}  // namespace rankfold
