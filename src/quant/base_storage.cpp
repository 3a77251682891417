#include "quant/base_storage.h"

#include "core/check.h"

#include <ATen/core/Tensor.h>

#include <stdexcept>

namespace rankfold {

int64_t bits_of(Quantization type) { return type == Quantization::nf4 || type == Quantization::fp4 ? 4 : 8; }

std::optional<BaseStorage> storage_of(const LoadConfig& config) {
  int64_t bits = config.quantization_bit;
  if (bits != 0 && bits != 4 && bits != 8) fail("quantization_bit: expected 0, 4 or 8, got ", bits);
  const auto also = [&bits](bool is_set, const char* key, int64_t meant) {
    if (!is_set) return;
    if (bits != 0 && bits != meant) fail(key, ": expected false where ", bits, " bits are asked for, got true");
    bits = meant;
  };
  also(config.load_in_4bit, "load_in_4bit", 4);
  also(config.load_in_8bit, "load_in_8bit", 8);
  const Word<std::optional<Quantization>>* word = find_word(kQuantizationTypes, config.quantization_type);
  if (!word)
    fail("quantization_type: expected ", list_words(kQuantizationTypes), ", got \"", config.quantization_type, "\"");
  std::optional<Quantization> type = word->meaning;
  if (type && bits != 0 && bits_of(*type) != bits)
    fail("quantization_type: expected ", bits == 4 ? "nf4 or fp4" : "int8 or fp8", " for ", bits, " bits, got \"",
         config.quantization_type, "\"");
  if (!type && bits != 0) type = bits == 4 ? Quantization::nf4 : Quantization::int8;
  if (config.double_quantization && (!type || bits_of(*type) != 4))
    fail("double_quantization: expected a base in nf4 or fp4, got ",
         type ? word_for(kQuantizationTypes, type) : "one as it is stored");
  if (config.quantize_lm_head && !type)
    fail("quantize_lm_head: expected quantization_bit or quantization_type with it, got neither");
  if (!type) return std::nullopt;
  return BaseStorage{.type = *type, .is_nested = config.double_quantization, .has_head = config.quantize_lm_head};
}

std::string text_of(const BaseStorage& storage) {
  return join(word_for(kQuantizationTypes, storage.type), storage.is_nested ? ", nested scales" : "",
              storage.has_head ? ", with lm_head" : "");
}

std::string flags_of(const BaseStorage& storage) {
  return join("--quantization_type ", word_for(kQuantizationTypes, storage.type),
              storage.is_nested ? " --double_quantization" : "", storage.has_head ? " --quantize_lm_head" : "");
}

PackedWeight quantized(const at::Tensor& weight, const BaseStorage& storage, const std::filesystem::path& file,
                       const std::string& tensor) try {
  PackedWeight packed =
      ops::quantize(weight.scalar_type() == at::kDouble ? weight.to(at::kFloat) : weight, storage.type);
  if (storage.is_nested) ops::nest_scales(packed);
  return packed;
} catch (const std::invalid_argument& error) {
  fail(file.string(), ": tensor '", tensor, "': ", error.what());
}

}  // namespace rankfold
