// What is trained on top of a loaded model: a LoRA adapter in PEFT's meaning, or (full) the model's own parameters.
// One flat fp32 buffer holds every trained value and one every gradient, so that clipping, AdamW and checkpoints are
// one call each.
#pragma once

#include "rankfold/causal_lm.h"
#include "rankfold/config.h"
#include "rankfold/error.h"

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace rankfold {

struct Parameter {
  std::string name;  // key in the file: "base_model.model.model.layers.0.self_attn.W_pack.lora_A.weight"
  at::Tensor value;  // fp32 leaf, a slice of the flat buffer; value.grad() is a slice of the flat gradient
};

class Adapter {
 public:
  // A new adapter: A uniform in +-1/sqrt(in), B zero, from `seed`; of an embedding A zero, B normal. Tensors of
  // modules_to_save and biases that train begin as the base's. It attaches itself to the model, where it is the only
  // active one at first (CausalLM::set_active_adapters). A model may have several, each with a name of its own:
  // std::invalid_argument for one that is taken. An entry of the config's lists and
  // patterns that does nothing on this model is a UserError that names it and lists the model's linear names.
  static Adapter create(const CausalLM& model, const LoraConfig& config, int64_t seed = 42,
                        const std::string& name = "default");

  // A folder that PEFT or save() wrote. Every tensor must find its module: missing, extra and misshaped ones are
  // errors. Weights that it holds beside its updates (PEFT's save_embedding_layers) stand in place of the base's; they do
  // not train. Otherwise as create().
  static Adapter load(const CausalLM& model, const std::filesystem::path& folder, int64_t seed = 42,
                      const std::string& name = "default");

  // Every parameter of the model; fp32 masters, the model computes in its own dtype. The model must have no adapter, and
  // none can be attached to it afterwards.
  static Adapter full(const CausalLM& model);

  const std::string& name() const;
  bool is_of(const CausalLM& model) const;  // made for this model, not another load of its folder
  bool is_active() const;                   // the model computes with it
  // Its values belong to the weights of the model's folder, hence can be saved: not after another adapter was merged into
  // those in memory.
  bool is_of_folder() const;
  // Takes the adapter off its model, and puts it there again, active alone. Its values stay, and can be saved, meanwhile.
  void detach() const;
  void attach() const;

  bool is_full() const;
  const LoraConfig& config() const;                 // of a LoRA adapter
  const std::vector<std::string>& modules() const;  // matched module names, in the model's order
  int64_t parameter_count() const;

  std::vector<at::Tensor> parameters() const;  // fp32 leaves with .grad
  const std::vector<Parameter>& named_parameters() const;
  // By key, as they are stored: weights that a loaded adapter brings in place of the base's without training them. Views
  // of its file.
  const std::map<std::string, at::Tensor>& untrained_tensors() const;
  at::Tensor flat_values() const;    // [P] fp32; decayed parameters first
  at::Tensor flat_gradient() const;  // [P] fp32
  int64_t decayed_count() const;     // the first values, which AdamW decays; norms and biases follow

  // LoRA: a folder that PEFT loads (adapter_config.json, adapter_model.safetensors, README.md). Full: a model folder in
  // the base's stored dtype. The files appear together: a manifest.json, written last, holds their sizes and checksums,
  // and load() refuses a folder whose files are of two saves.
  void save(const std::filesystem::path& folder) const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

// What quantisation does to an adapted layer, beside what the adapter does: Frobenius norms.
struct QuantizationError {
  std::string module;
  double error = 0;   // of Q(W) - W
  double update = 0;  // of scale * B A
};

// What a merge came to.
struct MergeReport {
  // Share of the update that is in the stored weights: their change, projected on the update. Below 1 where rounding to
  // the stored dtype swallows some of it.
  double share = 1;
  std::string worst_module = {};  // the one with the smallest share
  double worst_share = 1;
  // Where the base is at hand in 16 bits and in fewer, or the result is in fewer: how Q stores ("nf4, nested scales"), and
  // the adapted layers, those first whose error is largest beside their update.
  std::string quantization = {};
  std::vector<QuantizationError> errors = {};
  std::vector<std::string> notes = {};  // what was passed over in the two folders, and what was decided; a line each
};

struct MergeOptions {
  std::string dtype = "auto";       // auto: each tensor's stored dtype
  std::string max_shard_size = "";  // "5GB"; empty: the base's own sharding
  std::string merge_into = "auto";  // a word of kMergeIntos
  // As in LoadConfig. With merge_into dequantized they say as what a 16- or 32-bit base was trained on: the result is
  // dense. Otherwise the linear layers of the result are stored so, in bitsandbytes' format.
  int64_t quantization_bit = 0;
  std::string quantization_type = "auto";
  bool double_quantization = false;
  bool load_in_4bit = false, load_in_8bit = false;
  Stop stop = {};  // asked before every tensor; true: throws Stopped, and nothing is written
  // Sees the finished folder before it gets its name; what it throws refuses it, and nothing is written.
  std::function<void(const std::filesystem::path&)> check = {};
  std::function<void(const MergeReport&)> report = {};  // told of the finished folder before `check` sees it

  template <class V>
  void fields(V&& v) {
    section(v, "result");
    v("dtype", dtype, "dtype of the result's weights; auto: each tensor as in the base", allow::word_of<kDtypes>,
      words_of<kDtypes>(), {"torch_dtype"});
    v("max_shard_size", max_shard_size,
      "largest size of a file of weights, such as 5GB; without it the base's own shards", allow::size,
      "a size such as 5GB or 500MB", {});
    v("merge_into", merge_into,
      "weights that the update is added to: the original ones, or what decoding quantised ones gives; auto: the "
      "folder's",
      allow::word_of<kMergeIntos>, words_of<kMergeIntos>(), {});
    quantization_fields(v, *this,
                        "store the result's linear layers in 4 or 8 bits, as bitsandbytes does; with merge_into "
                        "dequantized: in how many the base was when the adapter was trained; 0: neither");
  }
};

// base + adapter as a model folder: W + scale * B A in fp32, rounded once; streamed tensor by tensor, where the result is
// quantised file by file. A base in fewer bits is decoded. Everything in the base folder that is not weights is copied, but
// for the files of a training run and of an adapter that lies there. `output` must not exist or be empty. An empty
// `adapter_folder`: the base alone in another form, which `options` must then ask for.
void merge(const std::filesystem::path& model_folder, const std::filesystem::path& adapter_folder,
           const std::filesystem::path& output, const MergeOptions& options = {});

}  // namespace rankfold
