// The numbers that codes of 4 and 8 bits stand for in bitsandbytes' formats.
#pragma once

#include "rankfold/choices.h"

#include <array>
#include <cstdint>

namespace rankfold::ops {

struct CodeBook {
  std::array<float, 16> values;
  // A number takes the code order[of how many bounds it is above]: halfway between neighbours.
  std::array<float, 15> bounds;
  std::array<uint8_t, 16> order;
};
const CodeBook& code_book(Quantization type);  // nf4 or fp4

// For the scales of blocks: seven decades, the higher ones in finer steps; it rises.
const std::array<float, 256>& dynamic_values();
// The code that bitsandbytes' CPU finds: [-1, 1] in 65,535 steps, and for each the nearest value.
uint8_t dynamic_code(float x);  // NaN: 0

}  // namespace rankfold::ops
