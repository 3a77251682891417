#include "model/model.h"

#include "core/check.h"
#include "core/number_text.h"
#include "model/architecture.h"
#include "model/load_network.h"

namespace rankfold {

Model::Model(ModelFolder folder_in, ModelConfig config_in, at::ScalarType dtype_in, at::Device device_in,
             const std::optional<BaseStorage>& storage_in)
    : folder(std::move(folder_in)),
      config(std::move(config_in)),
      dtype(dtype_in),
      device(device_in),
      storage(storage_in),
      linears(linear_modules(config)),
      quantized(QuantizedFolder::open(folder)),
      decoder(config, dtype, device),
      adapters(load_network(folder, config, dtype, device, quantized, storage), decoder) {
  if (quantized && !quantized->notes().empty()) config.notes.push_back(quantized->notes());
  note_storage();
}

void Model::note_storage() {
  int64_t bytes = 0, parameters = 0, quantised = 0;
  size_t modules = 0;
  std::string stored;
  for (const Projection* p : network().projections()) {
    const int64_t count = p->in_features() * p->out_features();
    parameters += count;
    if (!p->frozen->is_quantized()) continue;
    bytes += p->frozen->bytes(), quantised += count, modules += p->modules.size();
    stored = p->frozen->stored();
  }
  if (modules == 0) return;
  const double bits = 8 * static_cast<double>(bytes) / static_cast<double>(quantised);
  config.notes.push_back(join("base: ", modules, " linear layers as ", stored, " in ", bytes_text(bytes),
                              "; in 16 bits ", bytes_text(2 * quantised)));
  constexpr int64_t kSmall = 3'000'000'000;
  constexpr double kFewBits = 6;
  if (bits < kFewBits && parameters < kSmall)
    config.notes.push_back(
        "base: 4 bits cost a model below 3 billion parameters accuracy: if memory allows, 16 or 8 bits learn more "
        "(docs/quantisation.md)");
}

const Tokenizer& Model::tokenizer() {
  std::call_once(opens_tokenizer_, [this] {
    tokenizer_ = Tokenizer::of_model(folder.path(), find_architecture(config.architecture).bos_by_default,
                                     config.eos_token_ids, config.vocab_size);
  });
  return *tokenizer_;
}

}  // namespace rankfold
