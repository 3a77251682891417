// The implementation of CausalLM: folder, settings, network and adapters.
#pragma once

#include "io/model_folder.h"
#include "model/adapter_set.h"
#include "model/decoder.h"
#include "quant/base_storage.h"
#include "quant/quantized_folder.h"
#include "rankfold/causal_lm.h"
#include "rankfold/tokenizer.h"

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace rankfold {

struct Model {
  Model(ModelFolder folder, ModelConfig config, at::ScalarType dtype, at::Device device,
        const std::optional<BaseStorage>& storage = {});
  Model(const Model&) = delete;

  const Tokenizer& tokenizer();  // opened at the first call; thread-safe

  ModelFolder folder;
  ModelConfig config;
  at::ScalarType dtype;  // of the computation
  at::Device device;
  std::optional<BaseStorage> storage;  // how the linear layers were quantised while they were loaded
  std::vector<LinearModule> linears;
  std::shared_ptr<const Companions> companions;  // in full tuning: the folder's other files, to be copied to the result
  std::optional<QuantizedFolder> quantized;      // if the folder is quantised
  Decoder decoder;
  AdapterSet adapters;

  Network& network() { return adapters.network(); }
  const Network& network() const { return adapters.network(); }

 private:
  void note_storage();  // adds a line to config.notes if weights are quantised

  std::once_flag opens_tokenizer_;
  std::optional<Tokenizer> tokenizer_;
};

}  // namespace rankfold
