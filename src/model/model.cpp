#include "model/model.h"

#include "model/architecture.h"
#include "model/load_network.h"

namespace rankfold {

Model::Model(ModelFolder folder_in, ModelConfig config_in, at::ScalarType dtype_in, at::Device device_in)
    : folder(std::move(folder_in)),
      config(std::move(config_in)),
      dtype(dtype_in),
      device(device_in),
      linears(linear_modules(config)),
      decoder(config, dtype, device),
      adapters(load_network(folder, config, dtype, device), decoder) {}

const Tokenizer& Model::tokenizer() {
  std::call_once(opens_tokenizer_, [this] {
    tokenizer_ = Tokenizer::of_model(folder.path(), find_architecture(config.architecture).bos_by_default,
                                     config.eos_token_ids, config.vocab_size);
  });
  return *tokenizer_;
}

}  // namespace rankfold
