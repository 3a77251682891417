// Kernels of output_grad.h.
// Traffic  dY once in; partial sums of dS (an [M, R] for each stripe of columns) and of dB (an [R, N] for each slab of
//          rows) out and in again, mostly in the L2 cache. M=8192 N=12288 R=16 bf16: dY 201 MB, partial sums 13 + 9 MB
//          each way. At the 3.35 TB/s of an H100 the floor is 60 us for dY, 66 us if the partial sums also cross device
//          memory once. Two products would read dY twice.
// Work     a block owns a stripe of columns and a slab of rows; each of its 8 warps has 32 or 64 of the columns. A
//          tile of dY goes from memory into registers once. It is the left operand of dY B; transposed by movmatrix, it
//          is the right operand of S^T dY. dB stays in registers over the slab. The warps add their parts of dS in
//          shared memory, in two buffers that alternate: one barrier a round.
#include "kernels/output_grad.h"

#include "kernels/launch.h"
#include "kernels/slices.h"
#include "kernels/tile.h"

namespace rankfold::kernels {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int64_t kBlocks = 2 * kMultiprocessors;  // aimed at
constexpr int64_t kFewestRows = 64;

// Columns that a warp has of dY: two tiles where registers allow.
template <class T>
RANKFOLD_HOST_DEVICE constexpr int tiles_of(int column_tiles) {
  return kIs16Bit<T> && column_tiles <= 2 ? 2 : 1;
}
template <class T>
constexpr int64_t stripe_of(int column_tiles) {
  return kWarps * kTileFeatures * tiles_of<T>(column_tiles);
}

struct Cut {
  int64_t stripes = 0, slabs = 0, slab_rows = 0;
};
Cut cut_of(int64_t m, int64_t n, int64_t stripe) {
  Cut cut;
  cut.stripes = ceil_div(n, stripe);
  const int64_t most = std::max<int64_t>(1, ceil_div(m, kFewestRows));
  const int64_t wanted = std::clamp<int64_t>(kBlocks / std::max<int64_t>(cut.stripes, 1), 1, most);
  cut.slab_rows = round_up(ceil_div(m, wanted), kTileRows);
  cut.slabs = ceil_div(m, std::max<int64_t>(cut.slab_rows, 1));
  return cut;
}

struct Params {
  OutputGrad p;
  int64_t slab_rows;
  int32_t columns;  // of this slice
  float* ds_parts;  // [stripes][M][columns]
  float* db_parts;  // [slabs][columns][N]
};

template <class T, int kColumnTiles, bool kAligned>
__global__ void __launch_bounds__(kThreads, kIs16Bit<T>&& kColumnTiles <= 2 ? 2 : 1)
    output_grad_kernel(const __grid_constant__ Params params) {
  constexpr int kTiles = tiles_of<T>(kColumnTiles), kColumns = 8 * kColumnTiles;
  const OutputGrad& p = params.p;
  const Lane lane = this_lane();
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t feature = (static_cast<int64_t>(blockIdx.x) * kWarps + warp) * kTiles * kTileFeatures + 8 * lane.t;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * params.slab_rows;
  const int64_t end = begin + params.slab_rows < p.m ? begin + params.slab_rows : p.m;
  const int64_t ld_kept = p.ld_kept;
  Shared shared;
  float* buffers = shared.take<float>(2 * kWarps * kTileRows * kColumns);

  float db[kTiles][(kColumnTiles + 1) / 2][4][4] = {};
  Row<T, 8> low[kTiles], high[kTiles], next_low[kTiles], next_high[kTiles];
  const auto load = [&](int64_t first) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      const int64_t row = first + lane.g, left = p.n - feature - i * kTileFeatures;
      const T* dy = static_cast<const T*>(p.dy) + row * p.ld_dy + feature + i * kTileFeatures;
      next_low[i] = row < end ? load_some<kAligned>(dy, left) : zero_row<T, 8>();
      next_high[i] = row + 8 < end ? load_some<kAligned>(dy + 8 * p.ld_dy, left) : zero_row<T, 8>();
    }
  };
  // B transposed belongs to the columns alone: it stays in registers where there is room for it.
  constexpr bool kHeld = kIs16Bit<T> && kColumnTiles <= 2;
  const auto load_bt = [&](int i, int c) {
    const int64_t column = feature + i * kTileFeatures;
    return load_some<true>(static_cast<const T*>(p.bt_RN) + (8 * c + lane.g) * p.ld_bt + column,
                           8 * c < params.columns ? p.n - column : 0);
  };
  Row<T, 8> bt[kTiles][kColumnTiles];
  if constexpr (kHeld) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int c = 0; c < kColumnTiles; ++c) bt[i][c] = load_bt(i, c);
    }
  }
  load(begin);
  int turn = 0;
  for (int64_t first = begin; first < end; first += kTileRows) {
    const int64_t rows = end - first;
    float ds[kColumnTiles][4] = {};
#pragma unroll
    for (int i = 0; i < kTiles; ++i) low[i] = next_low[i], high[i] = next_high[i];
    load(first + kTileRows);  // under way during this round
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int c = 0; c < kColumnTiles; ++c)
        multiply_rows<T, 8>(ds[c], low[i], high[i], kHeld ? bt[i][c] : load_bt(i, c));
    }
    const T* s = static_cast<const T*>(p.kept_MR) + first * ld_kept;
#pragma unroll
    for (int r = 0; r < (kColumnTiles + 1) / 2; ++r) {
      const Turned<T> turned = load_turned(s, ld_kept, rows, 16 * r, 0, params.columns, lane);
#pragma unroll
      for (int i = 0; i < kTiles; ++i) multiply_columns<T>(db[i][r], turned, low[i], high[i], lane);
    }
    // Sum of the warps' parts. A warp comes back to this buffer two rounds later, after the next round's barrier, which
    // the readers of this one have passed by then.
    float* buffer = buffers + turn * kWarps * kTileRows * kColumns;
    float* mine = buffer + warp * kTileRows * kColumns;
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) mine[(lane.g + 8 * (i / 2)) * kColumns + 8 * c + 2 * lane.t + i % 2] = ds[c][i];
    }
    __syncthreads();
    float* parts = params.ds_parts + (static_cast<int64_t>(blockIdx.x) * p.m + first) * params.columns;
    for (int i = static_cast<int>(threadIdx.x); i < kTileRows * params.columns; i += kThreads) {
      const int row = i / params.columns, column = i % params.columns;
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += buffer[(w * kTileRows + row) * kColumns + column];
      if (row < rows) parts[i] = sum;
    }
    turn ^= 1;
  }

#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    const int64_t column = feature + i * kTileFeatures;
#pragma unroll
    for (int r = 0; r < (kColumnTiles + 1) / 2; ++r) {
      float* parts = params.db_parts + static_cast<int64_t>(blockIdx.y) * params.columns * p.n + column;
      store_columns(parts, p.n, 16 * r, params.columns, p.n - column, db[i][r], false, lane);
    }
  }
}

struct SumParams {
  OutputGrad p;
  int32_t columns;
  const float *ds_parts, *db_parts;
  int64_t stripes, slabs;
  int64_t ds_blocks;  // the first blocks sum dS, the others dB
};

constexpr int kSumThreads = 256;

template <class T>
__global__ void __launch_bounds__(kSumThreads, 4) sum_kernel(const __grid_constant__ SumParams params) {
  const OutputGrad& p = params.p;
  const auto block = static_cast<int64_t>(blockIdx.x);
  if (block < params.ds_blocks) {  // dS: element (row, column), scaled and rounded
    const int64_t size = p.m * params.columns, i = block * kSumThreads + threadIdx.x;
    if (i >= size) return;
    const float sum = sum_of_parts(params.ds_parts, params.stripes, size, i);
    const int64_t row = i / params.columns, column = i % params.columns;
    static_cast<T*>(p.ds_MR)[row * p.ld_ds + column] = from_float<T>(sum * scale_of(p.updates, column));
  } else {  // dB: element (column, n), to row n
    const int64_t size = p.n * params.columns, i = (block - params.ds_blocks) * kSumThreads + threadIdx.x;
    if (i >= size) return;
    p.db_NR[i % p.n * p.ld_db + i / p.n] = sum_of_parts(params.db_parts, params.slabs, size, i);
  }
}

template <class T, int kColumnTiles, bool kAligned>
void launch_output_grad(const OutputGrad& p, Stream stream) {
  const Cut cut = cut_of(p.m, p.n, stripe_of<T>(kColumnTiles));
  const auto columns = static_cast<int32_t>(p.updates.columns());
  Params params{p, cut.slab_rows, columns, p.workspace, p.workspace + cut.stripes * p.m * columns};
  launch("output_grad", output_grad_kernel<T, kColumnTiles, kAligned>, {cut.stripes, cut.slabs}, kThreads,
         shared_bytes<float>(2 * kWarps * kTileRows * 8 * kColumnTiles), stream, params);
  const SumParams sums{
      p, columns, params.ds_parts, params.db_parts, cut.stripes, cut.slabs, ceil_div(p.m * columns, kSumThreads)};
  launch("output_grad sums", sum_kernel<T>, {sums.ds_blocks + ceil_div(p.n * columns, kSumThreads)}, kSumThreads, 0,
         stream, sums);
}

// Calls f with kernel variant for each slice of the columns: f(slice, aligned, column tiles), the last two constants.
template <class T, class F>
void for_slices(const OutputGrad& p, F&& f) {
  for (const Slice& slice : slices(p.updates, kMostColumns<T>)) {
    const int64_t columns = slice.updates.columns();
    if (is_aligned(p.dy, p.ld_dy) && p.n % 8 == 0) {
      with_column_tiles<T, true>(columns, [&](auto tiles) { f(slice, std::true_type(), tiles); });
    } else {
      with_column_tiles<T, false>(columns, [&](auto tiles) { f(slice, std::false_type(), tiles); });
    }
  }
}

}  // namespace

int64_t output_grad_workspace(const OutputGrad& p) {
  int64_t most = 0;
  with_dtype(p.dtype, [&]<class T>(T) {
    for_slices<T>(p, [&](const Slice& slice, auto, auto tiles) {
      const Cut cut = cut_of(p.m, p.n, stripe_of<T>(decltype(tiles)::value));
      most = std::max(most, (cut.stripes * p.m + cut.slabs * p.n) * slice.updates.columns());
    });
  });
  return most * static_cast<int64_t>(sizeof(float));
}

void output_grad(const OutputGrad& p, Stream stream) {
  with_dtype(p.dtype, [&]<class T>(T) {
    for_slices<T>(p, [&](const Slice& slice, auto aligned, auto tiles) {
      if constexpr (decltype(tiles)::value > 0) {
        OutputGrad part = p;
        part.updates = slice.updates;
        part.bt_RN = static_cast<const T*>(p.bt_RN) + slice.begin * p.ld_bt;
        part.kept_MR = static_cast<const T*>(p.kept_MR) + slice.begin;
        part.ds_MR = static_cast<T*>(p.ds_MR) + slice.begin;
        part.db_NR = p.db_NR + slice.begin;
        launch_output_grad<T, decltype(tiles)::value, decltype(aligned)::value>(part, stream);
      }
    });
  });
}

}  // namespace rankfold::kernels
