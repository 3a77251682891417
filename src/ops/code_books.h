// Code books of bitsandbytes' formats: the value of each 4- or 8-bit code.
#pragma once

#include "rankfold/choices.h"

#include <array>
#include <cstdint>

namespace rankfold::ops {

struct CodeBook {
  std::array<float, 16> values;
  // A number that is above c of the bounds has the code order[c]. A bound lies halfway between two neighbouring values.
  std::array<float, 15> bounds;
  std::array<uint8_t, 16> order;
};
const CodeBook& code_book(Quantization type);  // nf4 or fp4

// The code book of nested scales, in ascending order: seven decades, the higher ones in finer steps.
const std::array<float, 256>& dynamic_values();
// The code that bitsandbytes finds on a CPU. It rounds x in [-1, 1] to one of 65,535 steps, then takes the nearest
// value.
uint8_t dynamic_code(float x);  // NaN: 0

}  // namespace rankfold::ops
