// The adapters of one model, by name, and the network of the base with the active adapters.
#pragma once

#include "model/decoder.h"
#include "model/network.h"

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace rankfold {

// One adapter as the network needs it: its low-rank updates, and the tensors that replace those of the base.
struct Attachment {
  std::string name;
  Dropout dropout;
  std::map<std::string, LowRank> updates;  // by module; the rows are set by the network
  std::optional<LowRank> embedding_update;
  // Tensors that replace those of the base, by the base's names: fp32 leaves if they train, else values in the model's
  // dtype. The embedding is separate, because the folder of a tied model may have it under another name.
  std::map<std::string, at::Tensor> tensors;
  at::Tensor embedding;
};

// Not thread-safe. Each change creates a new network; graphs of earlier losses keep the old one. A function that throws
// has changed nothing.
class AdapterSet {
 public:
  AdapterSet(Network base, Decoder& decoder);

  Network& network() { return *network_; }  // with the active adapters
  const Network& network() const { return *network_; }
  Network& base() { return *base_; }  // without the active adapters
  std::shared_ptr<const Network> shared_network() const { return network_; }

  std::vector<std::string> names() const;   // in the order in which they were attached
  std::vector<std::string> active() const;  // likewise

  // Attaches an adapter, and makes it the only active one. Throws std::invalid_argument for a name that is taken.
  void attach(std::shared_ptr<const Attachment> attachment);
  // Makes exactly these adapters active; their updates add up. An empty list: the base alone. Throws
  // std::invalid_argument for an unknown name, for two adapters that replace the same tensor, and in full tuning.
  void activate(const std::vector<std::string>& names);
  void check_name(const std::string& name) const;  // std::invalid_argument for one that attach() would not take
  void detach(const Attachment& attachment);       // no-op where it is not there
  bool is_active(const Attachment& attachment) const;

  // Merges the active adapters into the base in memory, in the model's dtype, and detaches them. Throws UserError for
  // an update of one of two tied weights, and for a sum that is not finite.
  void merge_active();
  bool has_merged() const { return !merged_.empty(); }
  // Whether an adapter fits the base as the folder has it. After a merge this is true only of the merged adapters.
  bool is_of_folder(const Attachment& attachment) const;

  // Replaces the base. If its weights train (full tuning), no adapter can be attached. Throws std::invalid_argument if
  // one is attached already.
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
