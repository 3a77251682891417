#include "model/adapter_set.h"

#include "core/check.h"
#include "ops/finite.h"
#include "ops/fold.h"

#include <c10/core/GradMode.h>

#include <algorithm>

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

// All that may throw comes before the first change.
void AdapterSet::use(std::shared_ptr<Network> base, Attached attached, Attached active) {
  auto network = std::make_shared<Network>(*base);
  Dropout dropout;
  for (const auto& attachment : active) {
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

void AdapterSet::merge_active() {
  const at::NoGradGuard no_grad;
  RANKFOLD_CHECK(!is_full(), "the model itself is trained (Adapter::full): it has no adapters");
  if (active_.empty()) return;
  if (network_->is_tied && network_->head.has_update())
    fail(network_->head.modules[0].name,
         " shares its weight with the embedding: its update cannot be merged into it alone");
  const auto merged = std::make_shared<Network>(*base_);
  const std::vector<Projection*> from = network_->projections(), to = merged->projections();
  for (size_t i = 0; i < from.size(); ++i) {
    if (!from[i]->has_update()) continue;
    to[i]->frozen = std::make_shared<FrozenWeight>();
    to[i]->frozen->value = ops::fold(from[i]->current_weight(), from[i]->updates);
    if (!ops::all_finite(to[i]->frozen->value))
      fail(from[i]->modules[0].name, ": expected finite values, base and update added, got NaN or infinity");
  }
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
  use(std::make_shared<Network>(std::move(network)), {}, {});
}

}  // namespace rankfold
