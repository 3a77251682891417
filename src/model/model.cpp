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
    const auto& eos = config.eos_token_ids;
    tokenizer_ = Tokenizer::open(folder.path(), find_architecture(config.architecture).bos_by_default,
                                 eos.empty() ? -1 : static_cast<int32_t>(eos.front()));
  });
  return *tokenizer_;
}

}  // namespace rankfold
