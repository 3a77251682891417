// In what the linear layers of a base are kept in memory: as the folder stores them, or quantised while it is loaded.
#pragma once

#include "rankfold/config.h"

#include <optional>
#include <string>

namespace rankfold {

struct BaseStorage {
  Quantization type;
  bool is_nested = false;  // the scales of nf4 and fp4 are in 8 bits

  bool operator==(const BaseStorage&) const = default;
};

// What the settings ask for; nullopt: as stored. UserError where they contradict each other.
std::optional<BaseStorage> storage_of(const LoadConfig& config);
std::string text_of(const BaseStorage& storage);  // "nf4, nested scales"

}  // namespace rankfold
