// What a CausalLM is made of.
#pragma once

#include "io/model_folder.h"
#include "model/adapter_set.h"
#include "model/decoder.h"
#include "quant/base_storage.h"
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

  const Tokenizer& tokenizer();  // opened at the first call, from any thread

  ModelFolder folder;
  ModelConfig config;
  at::ScalarType dtype;  // computed in
  at::Device device;
  std::string storage_text;  // what the linear layers were quantised to while they were loaded; empty: they were not
  std::vector<LinearModule> linears;
  std::shared_ptr<const Companions> companions;  // of the folder, where the whole model is trained and written again
  Decoder decoder;
  AdapterSet adapters;

  Network& network() { return adapters.network(); }
  const Network& network() const { return adapters.network(); }

 private:
  void note_storage();  // in config.notes, where it is not 16 or 32 bits

  std::once_flag opens_tokenizer_;
  std::optional<Tokenizer> tokenizer_;
};

}  // namespace rankfold
