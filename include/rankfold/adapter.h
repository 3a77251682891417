// The trained parameters of a loaded model: a LoRA adapter in PEFT's format, or (full) every parameter of the model.
// One flat fp32 buffer contains all trained values, and another contains all gradients. Clipping, AdamW and checkpoints
// each process one tensor.
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

// One trained tensor.
struct Parameter {
  std::string name;  // name in the saved file: "base_model.model.model.layers.0.self_attn.W_pack.lora_A.weight"
  at::Tensor value;  // fp32 leaf, a view of the flat buffer; value.grad() is a view of the flat gradient
};

// A shared handle: copies refer to the same values. It keeps the model alive. Thread safety is that of CausalLM: one
// thread at a time for each model, including attach(), detach() and the functions that create adapters.
class Adapter {
 public:
  // Creates a LoRA adapter and attaches it to the model, where it becomes the only active one
  // (CausalLM::set_active_adapters). A model can have several adapters, each with its own name.
  // Initial values depend on `seed` and are the same on every device. A is uniform in +-1/sqrt(in_features), and B is
  // zero. For an embedding A is zero, and B is drawn from the standard normal distribution. Modules in modules_to_save
  // and trained biases start with the base's values. `seed` also determines dropout.
  // Throws UserError for a bad setting, and for an entry of the config's lists or patterns that has no effect on this
  // model. The message names the entry and lists the model's linear layers. Throws std::invalid_argument where the name
  // is already in use, or where the model itself is trained (full()).
  static Adapter create(const CausalLM& model, const LoraConfig& config, int64_t seed = 42,
                        const std::string& name = "default");

  // Loads an adapter folder that PEFT or save() wrote, and attaches it like create(). `seed` determines dropout only.
  // Throws UserError where a tensor is missing, unexpected or of another shape.
  // Base weights in the folder (PEFT's save_embedding_layers) replace those of the model, but are not trained.
  static Adapter load(const CausalLM& model, const std::filesystem::path& folder, int64_t seed = 42,
                      const std::string& name = "default");

  // Trains every parameter of the model. The trained values are fp32; the model still computes in its own dtype.
  // Throws std::invalid_argument where the model already has an adapter; none can be attached afterwards. Throws
  // UserError where the base is quantised.
  static Adapter full(const CausalLM& model);

  const std::string& name() const;
  bool is_of(const CausalLM& model) const;  // created for this loaded model; false for another load of the same folder
  bool is_active() const;                   // the model uses it
  // Whether save() is possible: the values were trained on the weights of the model's folder.
  // CausalLM::merge_adapters() changes the weights in memory. After it, this is true only for the merged adapters
  // themselves.
  bool is_of_folder() const;
  // detach() removes the adapter from its model; its values remain and can still be saved. attach() adds it again, as
  // the only active one. Both throw std::invalid_argument for full().
  void detach() const;
  void attach() const;

  bool is_full() const;
  const LoraConfig& config() const;                 // only meaningful for a LoRA adapter
  const std::vector<std::string>& modules() const;  // names of the adapted modules, in the model's order
  int64_t parameter_count() const;                  // number of trained values, P

  std::vector<at::Tensor> parameters() const;  // fp32 leaves with .grad
  const std::vector<Parameter>& named_parameters() const;
  // Weights from a loaded adapter that replace the base's without being trained, by name in the file. The tensors are
  // views of the mapped file.
  const std::map<std::string, at::Tensor>& untrained_tensors() const;
  at::Tensor flat_values() const;    // [P] fp32; decayed parameters first
  at::Tensor flat_gradient() const;  // [P] fp32
  // The number of leading values in flat_values() to which AdamW applies weight decay. Norms and biases follow them.
  int64_t decayed_count() const;

  // LoRA: writes a folder that PEFT loads (adapter_config.json, adapter_model.safetensors, README.md). Full: writes a
  // model folder in the base's stored dtype.
  // manifest.json, written last, lists sizes and checksums; load() refuses a folder that mixes files of two saves.
  // Throws StorageError where writing fails, UserError where is_of_folder() is false.
  void save(const std::filesystem::path& folder) const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

// Quantisation error of one adapted layer, beside the size of its update. W: weight, Q: quantise and decode. All values
// are Frobenius norms.
struct QuantizationError {
  std::string module;
  double error = 0;   // norm of Q(W) - W
  double update = 0;  // norm of scale * B A
};

// Statistics of a merge.
struct MergeReport {
  // Share of the update that the stored weights contain: their change, projected on the update. Below 1 where rounding
  // to the stored dtype loses a part.
  double share = 1;
  std::string worst_module = {};  // module with the smallest share
  double worst_share = 1;
  // Set where the base is available both in 16 or 32 bits and quantised, or where the result is quantised.
  // `quantization` is the format ("nf4, nested scales"). `errors` lists the adapted layers, largest error
  // relative to its update first.
  std::string quantization = {};
  std::vector<QuantizationError> errors = {};
  // One line each: content of the two folders that merge() ignored, and choices that it made.
  std::vector<std::string> notes = {};
};

// Settings of merge(). Callbacks run on the calling thread; merge() rethrows what they throw.
struct MergeOptions {
  std::string dtype = "auto";       // a word of kDtypes; auto: each tensor's stored dtype
  std::string max_shard_size = "";  // such as "5GB"; empty: the base's shards, or 5 GB for a quantised base
  std::string merge_into = "auto";  // a word of kMergeIntos
  // As in LoadConfig. With merge_into dequantized, they tell how a 16- or 32-bit base was quantised while the adapter
  // was trained, and the result is dense. Otherwise merge() stores the result's linear layers in this format
  // (bitsandbytes).
  int64_t quantization_bit = 0;
  std::string quantization_type = "auto";
  bool double_quantization = false;
  bool quantize_lm_head = false;
  bool load_in_4bit = false, load_in_8bit = false;
  Stop stop = {};  // polled before every tensor; true: merge() throws Stopped and writes nothing
  // Called with the finished folder before it is renamed to `output`. An exception from it aborts the merge, and
  // nothing is written.
  std::function<void(const std::filesystem::path&)> check = {};
  std::function<void(const MergeReport&)> report = {};  // called before `check`

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

// Writes base + adapter as a model folder: W + scale * B A in fp32, rounded once. A quantised base is decoded first.
// Memory: merge() processes one tensor at a time, or one file at a time where the result is quantised.
// Everything else in the base folder is copied, except files of a training run or of an adapter. `output` must not
// exist or must be an empty folder. An empty `adapter_folder` converts the base alone, to a form that `options` must
// then request.
// Throws UserError for a bad folder, adapter or setting, StorageError where writing fails, Stopped.
void merge(const std::filesystem::path& model_folder, const std::filesystem::path& adapter_folder,
           const std::filesystem::path& output, const MergeOptions& options = {});

}  // namespace rankfold
