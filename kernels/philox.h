// The random number generator Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011). It
// gives the same bits as the CPU path (src/ops/cpu/dropout.h).
#pragma once

#include "kernels/ptx.h"

namespace rankfold::kernels {

struct Draws {
  uint32_t word[4];  // eight 16-bit draws, low half first, for features 8 b ... 8 b + 7
};

__device__ __forceinline__ Draws philox(uint64_t key, uint32_t row, uint32_t position, uint32_t block,
                                        uint32_t stream) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  uint32_t c0 = row, c1 = position, c2 = block, c3 = stream;
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t next0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0, next2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = next0;
    c2 = next2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

}  // namespace rankfold::kernels
