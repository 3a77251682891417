// The adapters of one model, by name, and the network that those of them which are active make of the base.
#pragma once

#include "model/decoder.h"
#include "model/network.h"

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace rankfold {

// What an adapter adds to the base, and what it puts in place of the base's own tensors.
struct Attachment {
  std::string name;
  Dropout dropout;
  std::map<std::string, LowRank> updates;  // by module; the rows are set by the network
  std::optional<LowRank> embedding_update;
  // By the names of the base's tensors: fp32 leaves where they train, else values in the model's dtype. The embedding,
  // which a tied model's folder may hold under another name, stands apart.
  std::map<std::string, at::Tensor> tensors;
  at::Tensor embedding;
};

// One thread at a time. Each change makes a new network: graphs of earlier losses keep theirs. A change that throws has
// changed nothing.
class AdapterSet {
 public:
  AdapterSet(Network base, Decoder& decoder);

  Network& network() { return *network_; }  // that computes now
  const Network& network() const { return *network_; }
  Network& base() { return *base_; }  // without the active adapters
  std::shared_ptr<const Network> shared_network() const { return network_; }

  std::vector<std::string> names() const;   // in the order in which they were attached
  std::vector<std::string> active() const;  // likewise

  // The new one is the only active one from now on. std::invalid_argument for a name that is taken.
  void attach(std::shared_ptr<const Attachment> attachment);
  // Exactly these compute, their updates added; none: the base alone. std::invalid_argument for a name that is not there,
  // for two that bring the same tensor, or where the model itself is trained.
  void activate(const std::vector<std::string>& names);
  void check_name(const std::string& name) const;  // std::invalid_argument for one that attach() would not take
  void detach(const Attachment& attachment);       // no-op where it is not there
  bool is_active(const Attachment& attachment) const;

  // The updates and tensors of the active adapters become part of the base, in the model's dtype, and these adapters are
  // detached. UserError for an update of one of two tied weights, or for a sum that is not finite.
  void merge_active();
  bool has_merged() const { return !merged_.empty(); }
  // Whether an adapter's values belong to the base as the folder has it: after a merge only those of the merged adapters.
  bool is_of_folder(const Attachment& attachment) const;

  // This network is the base from now on. Where its weights train (full tuning), nothing can be attached to it.
  // std::invalid_argument where something is.
  void replace_base(Network network);
  bool is_full() const { return is_full_; }

 private:
  using Attached = std::vector<std::shared_ptr<const Attachment>>;
  static bool holds(const Attached& attachments, const Attachment& attachment);
  static std::vector<std::string> names_of(const Attached& attachments);
  void use(std::shared_ptr<Network> base, Attached attached, Attached active);

  Decoder& decoder_;
  std::shared_ptr<Network> base_, network_;
  Attached attached_, active_;  // both in the order in which they were attached
  Attached merged_;             // into the base
  bool is_full_ = false;
};

}  // namespace rankfold
