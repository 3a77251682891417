// Element types: their names in safetensors files and in config.json, and constants of the format.
#pragma once

#include "rankfold/choices.h"

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <string_view>

namespace rankfold {

inline constexpr uint64_t kLargestHeader = 100'000'000;  // bytes, of a safetensors file

struct StoredDtype {
  const char* name;
  int bits;
  at::ScalarType type;  // Undefined: in the format, but not supported here
};

// In the order of the reference library's enum; its writer sorts by it, descending.
inline constexpr StoredDtype kStoredDtypes[] = {
    {"BOOL", 8, at::kBool},
    {"F4", 4, at::ScalarType::Undefined},
    {"F6_E2M3", 6, at::ScalarType::Undefined},
    {"F6_E3M2", 6, at::ScalarType::Undefined},
    {"U8", 8, at::kByte},
    {"I8", 8, at::kChar},
    {"F8_E5M2", 8, at::ScalarType::Undefined},
    {"F8_E4M3", 8, at::kFloat8_e4m3fn},
    {"F8_E8M0", 8, at::ScalarType::Undefined},
    {"F8_E4M3FNUZ", 8, at::ScalarType::Undefined},
    {"F8_E5M2FNUZ", 8, at::ScalarType::Undefined},
    {"I16", 16, at::kShort},
    {"U16", 16, at::ScalarType::Undefined},
    {"F16", 16, at::kHalf},
    {"BF16", 16, at::kBFloat16},
    {"I32", 32, at::kInt},
    {"U32", 32, at::ScalarType::Undefined},
    {"F32", 32, at::kFloat},
    {"C64", 64, at::ScalarType::Undefined},
    {"F64", 64, at::kDouble},
    {"I64", 64, at::kLong},
    {"U64", 64, at::ScalarType::Undefined},
};

inline const StoredDtype* find_dtype(std::string_view name) {
  for (const StoredDtype& dtype : kStoredDtypes)
    if (name == dtype.name) return &dtype;
  return nullptr;
}

inline const StoredDtype* find_dtype(at::ScalarType type) {
  for (const StoredDtype& dtype : kStoredDtypes)
    if (type == dtype.type && type != at::ScalarType::Undefined) return &dtype;
  return nullptr;
}

// Parses the dtype of a config.json, which has no aliases such as bf16.
inline std::optional<at::ScalarType> parse_model_dtype(std::string_view name) {
  const auto* word = find_word(kDtypes, name);
  return word && name == word->text ? word->meaning : std::nullopt;
}

inline const char* model_dtype_name(at::ScalarType type) {
  const char* name = word_for(kDtypes, type);
  return name ? name : c10::toString(type);
}

}  // namespace rankfold
