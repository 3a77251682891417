#include "model/adapter_set.h"

#include "core/check.h"
#include "ops/fold.h"

#include <c10/core/GradMode.h>

#include <algorithm>

namespace rankfold {

AdapterSet::AdapterSet(Network base, Decoder& decoder)
    : decoder_(decoder), base_(std::make_shared<Network>(std::move(base))) {
  use_active();
}

std::vector<std::string> AdapterSet::names_of(const Attached& attachments) {
  std::vector<std::string> names;
  for (const auto& attachment : attachments) names.push_back(attachment->name);
  return names;
}

std::vector<std::string> AdapterSet::names() const { return names_of(attached_); }
std::vector<std::string> AdapterSet::active() const { return names_of(active_); }

bool AdapterSet::is_active(const Attachment& attachment) const {
  return std::any_of(active_.begin(), active_.end(), [&](const auto& other) { return other.get() == &attachment; });
}

void AdapterSet::attach(std::shared_ptr<const Attachment> attachment) {
  RANKFOLD_CHECK(!is_full(), "the model itself is trained (Adapter::full); load it again for an adapter");
  for (const auto& other : attached_)
    RANKFOLD_CHECK(other->name != attachment->name, "the model has an adapter '", attachment->name,
                   "' already; detach it, or give another name");
  attached_.push_back(attachment);
  active_ = {std::move(attachment)};
  use_active();
}

void AdapterSet::activate(const std::vector<std::string>& names) {
  const std::vector<std::string> there = this->names();
  for (const std::string& name : names)
    RANKFOLD_CHECK(std::find(there.begin(), there.end(), name) != there.end(), "the model has no adapter '", name, "'");
  active_.clear();
  for (const auto& attachment : attached_)
    if (std::find(names.begin(), names.end(), attachment->name) != names.end()) active_.push_back(attachment);
  use_active();
}

void AdapterSet::detach(const Attachment& attachment) {
  const auto is_it = [&](const auto& other) { return other.get() == &attachment; };
  std::erase_if(active_, is_it);
  if (std::erase_if(attached_, is_it) > 0) use_active();
}

void AdapterSet::use_active() {
  network_ = std::make_shared<Network>(*base_);
  Dropout dropout;
  for (const auto& attachment : active_) {
    for (Projection* p : network_->projections())
      for (const Module& m : p->modules)
        if (const auto found = attachment->updates.find(m.name); found != attachment->updates.end()) {
          LowRank& update = p->updates.emplace_back(found->second);
          update.begin = m.begin, update.end = m.end;
        }
    if (active_.size() == 1) dropout = attachment->dropout;
    dropout.is_mixed = dropout.is_mixed || (active_.size() > 1 && attachment->dropout.probability > 0);
  }
  decoder_.use(network_, dropout);
}

void AdapterSet::merge_active() {
  const at::NoGradGuard no_grad;
  const auto merged = std::make_shared<Network>(*base_);
  const std::vector<Projection*> from = network_->projections(), to = merged->projections();
  for (size_t i = 0; i < from.size(); ++i) {
    if (!from[i]->has_update()) continue;
    RANKFOLD_CHECK(!network_->is_tied_head(from[i]),
                   "lm_head shares its weight with the embedding: its update cannot be merged into it alone");
    to[i]->frozen = std::make_shared<FrozenWeight>();
    to[i]->frozen->value = ops::fold(from[i]->current_weight(), from[i]->updates);
  }
  base_ = merged;
  std::erase_if(attached_, [&](const auto& attachment) { return is_active(*attachment); });
  active_.clear();
  use_active();
}

void AdapterSet::replace_base(Network network) {
  RANKFOLD_CHECK(attached_.empty() && !is_full(),
                 "the model has an adapter already; detach it, or load the model again to train all of it");
  base_ = std::make_shared<Network>(std::move(network));
  use_active();
}

}  // namespace rankfold
