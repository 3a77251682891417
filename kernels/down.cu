// Kernel of down.h.
// Traffic  source norm: h once in, x and S once out, A from the L2 cache: (2 M K + 2 M R) sizeof(T).
//          M=8192 K=4096 R=16 bf16: 135 MB, 40 us at the 3.35 TB/s of an H100. Unfused (norm, dropout, product): 5 M K.
// Work     a block of 8 or 16 warps owns 16 rows; a warp takes every eighth or sixteenth tile of 32 features. Norm
//          reads h twice, for the sum of squares and for x. Every lane copies its own parts of h to shared memory, as
//          far as they fit, and reads the others again from the L2. No barrier is needed: only the lane itself reads
//          its copy. The tensor cores compute S from the registers that x is stored from. The warps' parts of S are
//          added in a fixed order.
#include "kernels/down.h"

#include "kernels/launch.h"
#include "kernels/slices.h"
#include "kernels/tile.h"

namespace rankfold::kernels {
namespace {

// Elements that the lanes of a block hold of one row each, of one tile.
RANKFOLD_HOST_DEVICE constexpr int slot_row(int warps) { return warps * kWarp * 8; }

template <class T, int kColumnTiles, int kWarps>  // by registers
constexpr int kBlocksPerMultiprocessor = kIs16Bit<T>&& kColumnTiles <= 6 && kWarps == 8 ? 2 : 1;

struct Params {
  Down p;
  int32_t tiles;  // of 32 features
  int32_t held;   // tiles a warp keeps in shared memory
};

template <class T, Source kSource, int kColumnTiles, bool kAligned, int kWarps>
__global__ void __launch_bounds__(kWarps* kWarp, kBlocksPerMultiprocessor<T, kColumnTiles, kWarps>)
    down_kernel(const __grid_constant__ Params params) {
  constexpr int kColumns = 8 * (kColumnTiles > 0 ? kColumnTiles : 1), kThreads = kWarps * kWarp;
  constexpr int kSlotRow = slot_row(kWarps);
  const Down& p = params.p;
  const Lane lane = this_lane();
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTileRows;
  // Rows beyond the last are computed as copies of it and not stored.
  const int64_t row_low = first + lane.g, row_high = row_low + 8;
  const bool low_there = row_low < p.m, high_there = row_high < p.m;
  const int64_t read_low = low_there ? row_low : p.m - 1, read_high = high_there ? row_high : p.m - 1;
  const T* in_low = static_cast<const T*>(p.in) + read_low * p.ld_in;
  const T* in_high = static_cast<const T*>(p.in) + read_high * p.ld_in;

  Shared shared;
  float* parts = shared.take<float>(kWarps * kTileRows * kColumns);
  float rstd_low = 1, rstd_high = 1;
  T* slots = nullptr;
  if constexpr (kSource == Source::norm) {
    float* squares = shared.take<float>(kWarps * kTileRows);
    slots = shared.take<T>(params.held * 2 * kSlotRow);
    T* mine = slots + static_cast<int64_t>(threadIdx.x) * 8;
    if constexpr (kAligned) {
      for (int i = 0; i < params.held; ++i) {
        const int64_t feature = (int64_t{i} * kWarps + warp) * kTileFeatures + 8 * lane.t;
        if (feature < p.k) {
#pragma unroll
          for (int part = 0; part < 8 * static_cast<int>(sizeof(T)) / 16; ++part) {
            const int offset = part * 16 / static_cast<int>(sizeof(T));
            copy_async(mine + (2 * i) * kSlotRow + offset, in_low + feature + offset);
            copy_async(mine + (2 * i + 1) * kSlotRow + offset, in_high + feature + offset);
          }
        }
      }
      commit_copies();
    }
    float sum_low = 0, sum_high = 0;
    const auto add = [](float& sum, const Row<T, 8>& row) {
      float x[8];
      unpack(row, x);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum = fmaf(x[i], x[i], sum);
    };
    // What is not held first: its loads run beside the copies.
    for (int tile = params.held * kWarps + warp; tile < params.tiles; tile += kWarps) {
      const int64_t feature = int64_t{tile} * kTileFeatures + 8 * lane.t;
      add(sum_low, load_some<kAligned>(in_low + feature, p.k - feature));
      add(sum_high, load_some<kAligned>(in_high + feature, p.k - feature));
    }
    if constexpr (kAligned) {
      wait_copies<0>();
      for (int i = 0; i < params.held; ++i) {
        const int64_t feature = (int64_t{i} * kWarps + warp) * kTileFeatures + 8 * lane.t;
        if (feature < p.k) {
          add(sum_low, load_row<T, 8>(mine + (2 * i) * kSlotRow));
          add(sum_high, load_row<T, 8>(mine + (2 * i + 1) * kSlotRow));
        }
      }
    }
    sum_low = sum_of_row(sum_low), sum_high = sum_of_row(sum_high);
    if (lane.t == 0) {
      squares[warp * kTileRows + lane.g] = sum_low;
      squares[warp * kTileRows + lane.g + 8] = sum_high;
    }
    __syncthreads();
    sum_low = 0, sum_high = 0;
    for (int w = 0; w < kWarps; ++w) {
      sum_low += squares[w * kTileRows + lane.g];
      sum_high += squares[w * kTileRows + lane.g + 8];
    }
    rstd_low = 1 / sqrtf(sum_low / static_cast<float>(p.k) + p.eps);
    rstd_high = 1 / sqrtf(sum_high / static_cast<float>(p.k) + p.eps);
    if (warp == 0 && lane.t == 0) {
      if (low_there) p.rstd_M[row_low] = rstd_low;
      if (high_there) p.rstd_M[row_high] = rstd_high;
    }
  }

  float sums[kColumnTiles > 0 ? kColumnTiles : 1][4] = {};
  const DropoutRow draw_low = dropout_row(p.updates.dropout, read_low);
  const DropoutRow draw_high = dropout_row(p.updates.dropout, read_high);
  for (int tile = warp; tile < params.tiles; tile += kWarps) {
    const int64_t feature = int64_t{tile} * kTileFeatures + 8 * lane.t, left = p.k - feature;
    Row<T, 8> x_low, x_high;
    if constexpr (kSource == Source::norm) {
      if (kAligned && tile < params.held * kWarps && left > 0) {
        const T* mine = slots + 2 * (tile / kWarps) * kSlotRow + static_cast<int64_t>(threadIdx.x) * 8;
        x_low = load_row<T, 8>(mine);
        x_high = load_row<T, 8>(mine + kSlotRow);
      } else {
        x_low = load_some<kAligned>(in_low + feature, left);
        x_high = load_some<kAligned>(in_high + feature, left);
      }
      const Row<T, 8> gain_row = load_some<kAligned>(static_cast<const T*>(p.gain_K) + feature, left);
      x_low = norm_row<T>(x_low, rstd_low, gain_row, p.gain_offset);
      x_high = norm_row<T>(x_high, rstd_high, gain_row, p.gain_offset);
    } else if constexpr (kSource == Source::glu) {
      const Row<T, 8> gate_low = load_some<kAligned>(in_low + feature, left);
      const Row<T, 8> gate_high = load_some<kAligned>(in_high + feature, left);
      const Row<T, 8> up_low = load_some<kAligned>(in_low + p.k + feature, left);
      const Row<T, 8> up_high = load_some<kAligned>(in_high + p.k + feature, left);
      x_low = glu_row<T>(p.gate, gate_low, up_low);
      x_high = glu_row<T>(p.gate, gate_high, up_high);
    } else {
      x_low = load_some<kAligned>(in_low + feature, left);
      x_high = load_some<kAligned>(in_high + feature, left);
    }
    if (p.x && left > 0) {  // a whole group of eight: the pad columns get zeros
      T* x = static_cast<T*>(p.x) + feature;
      if (low_there) store_row(x + row_low * p.ld_x, x_low);
      if (high_there) store_row(x + row_high * p.ld_x, x_high);
    }
    if constexpr (kColumnTiles > 0) {
#pragma unroll 1
      for (int u = 0; u < p.updates.count; ++u) {
        const Update& update = p.updates.update[u];
        const Dropout& d = p.updates.dropout;
        Row<T, 8> low = x_low, high = x_high;
        if (d.threshold > 0) {
          low = masked(x_low, draw(d, draw_low, update, feature), d.threshold);
          high = masked(x_high, draw(d, draw_high, update, feature), d.threshold);
        }
#pragma unroll
        for (int c = 0; c < kColumnTiles; ++c) {
          if (8 * c >= update.begin && 8 * c < update.end) {
            const T* a = static_cast<const T*>(p.a_RK) + (8 * c + lane.g) * p.ld_a + feature;
            multiply_rows<T, 8>(sums[c], low, high, load_some<true>(a, left));
          }
        }
      }
    }
  }

  if constexpr (kColumnTiles > 0) {
    float* mine = parts + warp * kTileRows * kColumns;
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) mine[(lane.g + 8 * (i / 2)) * kColumns + 8 * c + 2 * lane.t + i % 2] = sums[c][i];
    }
    __syncthreads();
    const int columns = static_cast<int>(p.updates.columns());
    for (int i = static_cast<int>(threadIdx.x); i < kTileRows * columns; i += kThreads) {
      const int row = i / columns, column = i % columns;
      float sum = 0;
      for (int w = 0; w < kWarps; ++w) sum += parts[(w * kTileRows + row) * kColumns + column];
      if (first + row < p.m) {
        const T value = from_float<T>(sum * scale_of(p.updates, column));
        if (p.s_MR) static_cast<T*>(p.s_MR)[(first + row) * p.ld_s + column] = value;
        if (p.kept_MR) static_cast<T*>(p.kept_MR)[(first + row) * p.ld_kept + column] = value;
      }
    }
  }
}

template <class T, Source kSource, int kColumnTiles, bool kAligned, int kWarps>
void launch_down(const Down& p, Stream stream) {
  constexpr int64_t kColumns = 8 * (kColumnTiles > 0 ? kColumnTiles : 1);
  Params params{p, static_cast<int32_t>(ceil_div(p.k, kTileFeatures)), 0};
  int64_t bytes = shared_bytes<float>(kWarps * kTileRows * kColumns);
  if constexpr (kSource == Source::norm) {
    bytes += shared_bytes<float>(kWarps * kTileRows);
    constexpr int64_t kTileBytes = shared_bytes<T>(2 * slot_row(kWarps));
    // Half of what a block may take leaves room for a second block beside it.
    const int64_t limit =
        kBlocksPerMultiprocessor<T, kColumnTiles, kWarps> == 1 ? p.shared_limit : (p.shared_limit - 2048) / 2;
    if (kAligned && limit > bytes)
      params.held =
          static_cast<int32_t>(std::min<int64_t>((limit - bytes) / kTileBytes, ceil_div(params.tiles, kWarps)));
    bytes += params.held * kTileBytes;
  }
  launch(kSource == Source::plain  ? "down plain"
         : kSource == Source::norm ? "down norm"
                                   : "down glu",
         down_kernel<T, kSource, kColumnTiles, kAligned, kWarps>, {ceil_div(p.m, kTileRows)}, kWarps * kWarp, bytes,
         stream, params);
}

template <class T, Source kSource>
void launch_down(const Down& p, Stream stream) {
  const int64_t columns = p.updates.columns();
  if (is_aligned(p.in, p.ld_in) && is_aligned(p.gain_K) && p.k % 8 == 0) {
    with_column_tiles<T, true>(columns, [&](auto tiles) {
      constexpr int kColumnTiles = decltype(tiles)::value;
      // Too few rows for two blocks a multiprocessor: blocks of twice as many warps, where registers allow.
      if constexpr (kIs16Bit<T> && kColumnTiles <= 6) {
        if (p.m < p.many_rows) return launch_down<T, kSource, kColumnTiles, true, 16>(p, stream);
      }
      launch_down<T, kSource, kColumnTiles, true, 8>(p, stream);
    });
  } else {
    with_column_tiles<T, false>(
        columns, [&](auto tiles) { launch_down<T, kSource, decltype(tiles)::value, false, 8>(p, stream); });
  }
}

}  // namespace

void down(const Down& p, Stream stream) {
  with_dtype(p.dtype, [&]<class T>(T) {
    for (const Slice& slice : slices(p.updates, kMostColumns<T>)) {
      Down part = p;
      part.updates = slice.updates;
      const auto at = [&](auto* s, int64_t offset) { return s ? static_cast<T*>(s) + offset : nullptr; };
      part.s_MR = at(p.s_MR, slice.begin);
      part.kept_MR = at(p.kept_MR, slice.begin);
      if (p.a_RK) part.a_RK = static_cast<const T*>(p.a_RK) + slice.begin * p.ld_a;
      if (slice.begin > 0) {  // further columns of S read the x that the first launch wrote, if it did
        if (p.source != Source::plain && p.x) part.source = Source::plain, part.in = p.x, part.ld_in = p.ld_x;
        part.x = nullptr;
      }
      switch (part.source) {
        case Source::plain:
          launch_down<T, Source::plain>(part, stream);
          break;
        case Source::norm:
          launch_down<T, Source::norm>(part, stream);
          break;
        case Source::glu:
          launch_down<T, Source::glu>(part, stream);
          break;
      }
    }
  });
}

}  // namespace rankfold::kernels
