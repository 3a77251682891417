#include "adapter/full_tuning.h"

#include "core/check.h"
#include "io/tensor_writer.h"
#include "model/tensor_list.h"
#include "ops/finite.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <map>

namespace rankfold {
namespace fs = std::filesystem;

FlatLeaves train_all(Model& model) {
  const at::NoGradGuard no_grad;
  RANKFOLD_CHECK(model.adapters.names().empty() && !model.adapters.is_full(),
                 "the model has an adapter already; detach it, or load the model again to train all of it");
  if (model.network().is_tied != model.config.tie_word_embeddings)
    fail(model.folder.path().string(),
         ": expected a base whose head is the embedding, as its files have it; got one that an adapter was merged into "
         "in memory, which made them two: merge() into a folder, load that, and train it");
  for (const Projection* p : model.network().projections())
    if (p->frozen->is_quantized())
      fail("finetuning_type: full: expected weights in 16 or 32 bits, got ", p->modules[0].name, " in ",
           p->frozen->stored(), ": every value trains, and those are codes; train an adapter (finetuning_type lora)");
  model.companions = std::make_shared<const Companions>(model.folder);
  Network network = model.network();

  // Modules of a projection lie one after the other, so that in fp32 the projection's weight is a view of the masters.
  std::vector<Leaf> leaves;
  const auto add = [&](const std::string& name, const at::Tensor& weight, bool is_decayed) {
    leaves.push_back(
        {name, weight.sizes().vec(), is_decayed, [weight](const at::Tensor& value) { value.copy_(weight); }});
  };
  const auto add_rows = [&](const std::string& name, const std::shared_ptr<FrozenWeight>& weight, int64_t begin,
                            int64_t end) {
    leaves.push_back({name, {end - begin, weight->columns()}, true, [weight, begin](const at::Tensor& value) {
                        weight->copy_rows(begin, value);
                      }});
  };
  const auto weight_name = [](const Module& m) { return m.name + kWeightSuffix; };
  const auto bias_name = [](const Module& m) { return m.name + kBiasSuffix; };
  add_rows(network.embedding_name, network.embedding, 0, network.embedding->rows());
  for (Projection* p : network.projections()) {
    if (network.is_tied_head(p)) continue;
    for (const Module& m : p->modules)
      if (p->has_unit_rows)
        add(weight_name(m), model.folder.tensor(weight_name(m)), true);
      else
        add_rows(weight_name(m), p->frozen, m.begin, m.end);
  }
  for (const Norm* norm : network.norms()) add(norm->name, norm->weight, false);
  for (Projection* p : network.projections())
    if (p->bias.defined())
      for (const Module& m : p->modules) add(bias_name(m), p->bias.narrow(0, m.begin, m.end - m.begin), false);
  FlatLeaves flat(leaves, model.device);
  leaves.clear();
  for (const TensorFile& file : model.folder.files())  // all of it is copied
    for (const TensorInfo& tensor : file.tensors()) file.forget(tensor.name);

  const bool is_fp32 = model.dtype == at::kFloat;
  network.embedding_master = flat.leaf(network.embedding_name);
  network.embedding = std::make_shared<DenseWeight>(network.embedding_master.detach());
  for (Projection* p : network.projections()) {
    FrozenWeight& old = p->current();
    const auto use = [&](const at::Tensor& weight) {
      p->frozen = std::make_shared<DenseWeight>(weight);  // graphs of earlier losses keep theirs
    };
    p->augmented = nullptr;
    if (network.is_tied_head(p)) {
      p->modules[0].master = network.embedding_master;
      use(is_fp32 ? network.embedding_master.detach() : old.copy());
      continue;
    }
    for (Module& m : p->modules) m.master = flat.leaf(weight_name(m));
    const int64_t begin = p->modules[0].master.storage_offset(), rows = old.rows(), columns = old.columns();
    use(is_fp32 && !p->has_unit_rows ? flat.values.narrow(0, begin, rows * columns).view({rows, columns}).detach()
                                     : old.copy());
    // The copy of a 16-bit weight is exact; -1 makes the first use write it all the same.
    for (Module& m : p->modules) m.master_version = static_cast<uint32_t>(-1);
    if (!p->bias.defined()) continue;
    p->bias = p->bias.clone();
    for (Module& m : p->modules) m.bias_master = flat.leaf(bias_name(m)), m.bias_version = static_cast<uint32_t>(-1);
  }
  for (Norm* norm : network.norms()) norm->master = flat.leaf(norm->name);
  model.adapters.replace_base(std::move(network));
  return flat;
}

void write_trained_model(const Model& model, const std::vector<Parameter>& parameters, const fs::path& target) {
  std::map<std::string, at::Tensor> trained;
  for (const Parameter& p : parameters) trained[p.name] = p.value.detach();
  // A tied head that is stored besides stays equal to the embedding, or readers would untie it.
  if (model.network().is_tied)
    trained[model.network().head.modules[0].name + kWeightSuffix] = trained.at(model.network().embedding_name);
  for (const TensorFile& file : model.folder.files()) {
    std::map<std::string, std::string> metadata = file.metadata();
    metadata.emplace("format", "pt");  // without it transformers refuses the file
    TensorWriter writer(target / file.path().filename(), file.tensors(), metadata);
    for (const TensorInfo& info : writer.tensors()) {
      const auto found = trained.find(info.name);
      const at::Tensor stored = found == trained.end() ? file.tensor(info.name) : found->second.to(info.dtype);
      if (found != trained.end() && !ops::all_finite(stored))
        throw Error(ExitCode::kDiverged, join(info.name, ": a value does not fit ", info.dtype, "; not saved"));
      writer.add(info.name, stored);
    }
    writer.commit();
  }
  model.companions->copy_to(target);
}

}  // namespace rankfold
