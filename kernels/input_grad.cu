// Kernels of input_grad.h.
// Traffic  plain: dX and x in, dX out. swiglu: dX, gate, up in, dgate, dup out. norm: dX, h and the residual in, dh
// out; the
//          second reading of dX and h hits the second-level cache, as both kernels work through the rows in slices that
//          fit it. M=8192 K=4096 bf16: norm 268 MB, 80 us; swiglu at K=11008 902 MB, 269 us at 3.35 TB/s. dA's partial
//          sums: 4 R K bytes a slab of rows, in the cache.
// Work     column_kernel: a block owns 128 columns and a slab of rows, a warp 32 of the columns. Each tile of dX gets
// its
//          low-rank part by the tensor cores from A transposed (in the first-level cache), is masked with the same
//          Philox call that masks x, and x, turned over by movmatrix, is the right operand of dA = dS^T x, which stays
//          in registers over the slab. No barrier, no shared memory. norm's sum over a row's features leaves as one
//          number a row and warp; row_kernel adds them up and writes dh.
#include "kernels/input_grad.h"

#include "kernels/launch.h"
#include "kernels/slices.h"
#include "kernels/tile.h"

namespace rankfold::kernels {
namespace {

constexpr int kColumnWarps = 4;  // of column_kernel: small blocks, as it needs many registers
constexpr int kColumnThreads = kColumnWarps * kWarp;
constexpr int kStripe = kColumnWarps * kTileFeatures;
constexpr int kWarps = 8;  // of row_kernel
constexpr int kThreads = kWarps * kWarp;
constexpr int64_t kBlocks = 1056;  // aimed at; fixed, so that sums repeat
constexpr int64_t kFewestRows = 64;
constexpr int64_t kFewestSliceRows = 256;

struct Cut {
  int64_t stripes = 0, row_parts = 0;  // row_parts: warps that have columns
  int64_t slice_rows = 0;              // rows of one round of both kernels
  int64_t slabs = 0, slab_rows = 0;    // of a slice
};
Cut cut_of(const InputGrad& p) {
  Cut cut;
  cut.stripes = ceil_div(p.k, kStripe);
  cut.row_parts = ceil_div(p.k, kTileFeatures);
  cut.slice_rows = p.m;
  if (p.source == Source::norm && p.dx) {
    const int64_t row_bytes = std::max<int64_t>(1, 2 * p.k * size_of(p.dtype));
    cut.slice_rows = std::min(p.m, round_up(std::max(p.cached_bytes / row_bytes, kFewestSliceRows), kTileRows));
  }
  const int64_t wanted =
      std::clamp<int64_t>(kBlocks / std::max<int64_t>(cut.stripes, 1), 1, ceil_div(cut.slice_rows, kFewestRows) + 1);
  cut.slab_rows = round_up(ceil_div(cut.slice_rows, wanted), kTileRows);
  cut.slabs = ceil_div(cut.slice_rows, std::max<int64_t>(cut.slab_rows, 1));
  return cut;
}

struct Params {
  InputGrad p;
  int64_t first_row, end_row;  // of the slice
  int64_t slab_rows;
  bool add;          // to the partial sums of an earlier slice of rows
  int32_t da_begin;  // columns of dS whose dA this launch sums ...
  int32_t da_count;
  float* da_parts;     // [slabs][da_count][K]
  float* dgain_parts;  // [slabs][K]
  float* row_parts;    // [row parts][M]: sums of dx gain h over a warp's columns
};

// This warp's tile of dx: dX and the low-rank part.
template <class T>
__device__ __forceinline__ void add_low_rank(float (&low)[8], float (&high)[8], const InputGrad& p, int64_t row_low,
                                             int64_t row_high, int64_t end_row, int64_t tile_feature,
                                             const DropoutRow& draw_low, const DropoutRow& draw_high,
                                             const Lane& lane) {
  const T* ds = static_cast<const T*>(p.ds_MR);
  const T* s_low = row_low < end_row ? ds + row_low * p.ld_ds : nullptr;
  const T* s_high = row_high < end_row ? ds + row_high * p.ld_ds : nullptr;
  const T* at = static_cast<const T*>(p.at_KR) + tile_feature * p.ld_at;
  const uint32_t threshold = p.updates.dropout.threshold;
#pragma unroll 1
  for (int u = 0; u < p.updates.count; ++u) {
    const Update& update = p.updates.update[u];
    float y[4][4] = {};
    add_product<T>(y, s_low, s_high, at, p.ld_at, update.begin, update.end, p.k - tile_feature, lane);
    if (threshold > 0) {
      const uint32_t block = static_cast<uint32_t>(tile_feature / 8 + lane.t);
      const Draws d_low = draw(p.updates.dropout, draw_low, update.stream, block);
      const Draws d_high = draw(p.updates.dropout, draw_high, update.stream, block);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (kept(d_low, 2 * j + i, threshold)) low[2 * j + i] += y[j][i];
          if (kept(d_high, 2 * j + i, threshold)) high[2 * j + i] += y[j][2 + i];
        }
      }
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) low[2 * j + i] += y[j][i], high[2 * j + i] += y[j][2 + i];
      }
    }
  }
}

template <class T, Source kSource, int kColumnTiles, bool kAligned>
__global__ void __launch_bounds__(kColumnThreads, kIs16Bit<T>&& kColumnTiles <= 2 ? 3 : 2)
    column_kernel(const __grid_constant__ Params params) {
  constexpr int kTurned = (kColumnTiles + 1) / 2;
  const InputGrad& p = params.p;
  const Lane lane = this_lane();
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t tile_feature = (static_cast<int64_t>(blockIdx.x) * kColumnWarps + warp) * kTileFeatures;
  const int64_t feature = tile_feature + 8 * lane.t, left = p.k - feature;
  const int64_t begin = params.first_row + static_cast<int64_t>(blockIdx.y) * params.slab_rows;
  const int64_t end = begin + params.slab_rows < params.end_row ? begin + params.slab_rows : params.end_row;
  const Dropout& dropout = p.updates.dropout;

  float gain[8] = {};
  if constexpr (kSource == Source::norm)
    unpack(load_some<kAligned>(static_cast<const T*>(p.gain_K) + feature, left), gain);
  float da[kTurned > 0 ? kTurned : 1][4][4] = {};
  float dgain[8] = {};

  for (int64_t first = begin; first < end; first += kTileRows) {
    const int64_t row_low = first + lane.g, row_high = row_low + 8;
    const bool low_there = row_low < end, high_there = row_high < end;
    const auto load = [&](const void* from, int64_t ld, int64_t column, int64_t row, bool there) {
      return there ? load_some<kAligned>(static_cast<const T*>(from) + row * ld + column, left) : zero_row<T, 8>();
    };
    // What x is made of, x, and dX.
    Row<T, 8> in_low = load(p.in, p.ld_in, feature, row_low, low_there);
    Row<T, 8> in_high = load(p.in, p.ld_in, feature, row_high, high_there);
    Row<T, 8> up_low, up_high;
    if constexpr (kSource == Source::swiglu) {
      up_low = load(p.in, p.ld_in, p.k + feature, row_low, low_there);
      up_high = load(p.in, p.ld_in, p.k + feature, row_high, high_there);
    }
    float dx_low[8], dx_high[8];
    if (p.dx) {
      unpack(load(p.dx, p.ld_dx, feature, row_low, low_there), dx_low);
      unpack(load(p.dx, p.ld_dx, feature, row_high, high_there), dx_high);
    }
    float rstd_low = 0, rstd_high = 0;
    Row<T, 8> x_low = in_low, x_high = in_high;
    if constexpr (kSource == Source::norm) {
      if (low_there) rstd_low = p.rstd_M[row_low];
      if (high_there) rstd_high = p.rstd_M[row_high];
      float h[8];
      unpack(in_low, h);
#pragma unroll
      for (int i = 0; i < 8; ++i) h[i] = h[i] * rstd_low * gain[i];
      x_low = pack_row<T, 8>(h);
      unpack(in_high, h);
#pragma unroll
      for (int i = 0; i < 8; ++i) h[i] = h[i] * rstd_high * gain[i];
      x_high = pack_row<T, 8>(h);
    }
    if constexpr (kSource == Source::swiglu) {
      const auto product = [](const Row<T, 8>& gate_row, const Row<T, 8>& up_row) {
        float gate[8], up[8];
        unpack(gate_row, gate);
        unpack(up_row, up);
#pragma unroll
        for (int i = 0; i < 8; ++i) gate[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
        return pack_row<T, 8>(gate);
      };
      x_low = product(in_low, up_low);
      x_high = product(in_high, up_high);
    }
    DropoutRow draw_low{}, draw_high{};
    if (p.updates.count > 0) {
      draw_low = dropout_row(dropout, low_there ? row_low : first);
      draw_high = dropout_row(dropout, high_there ? row_high : first);
    }

    if constexpr (kTurned > 0) {
      const T* ds = static_cast<const T*>(p.ds_MR) + first * p.ld_ds;
      const int da_end = params.da_begin + params.da_count;
#pragma unroll 1
      for (int u = 0; u < p.updates.count; ++u) {
        const Update& update = p.updates.update[u];
        // Of this update the columns that are summed here: tiles of 16 that begin with its first.
        const int from = update.begin > params.da_begin ? update.begin : params.da_begin;
        const int to = update.end < da_end ? update.end : da_end;
        if (from >= to) continue;
        Row<T, 8> low = x_low, high = x_high;
        if (dropout.threshold > 0) {
          const uint32_t block = static_cast<uint32_t>(feature / 8);
          low = masked(x_low, draw(dropout, draw_low, update.stream, block), dropout.threshold);
          high = masked(x_high, draw(dropout, draw_high, update.stream, block), dropout.threshold);
        }
#pragma unroll
        for (int r = 0; r < kTurned; ++r) {
          // A tile of 16 columns may hold the end of one update and the begin of the next: each adds its own columns.
          const int column = params.da_begin + 16 * r;
          if (column < to && column + 16 > from)
            multiply_columns<T>(da[r], load_turned(ds, p.ld_ds, end - first, column, from, to, lane), low, high, lane);
        }
      }
    }

    if (p.dx) {
      if (p.at_KR) add_low_rank<T>(dx_low, dx_high, p, row_low, row_high, end, tile_feature, draw_low, draw_high, lane);
      if constexpr (kSource == Source::plain) {
        const auto store = [&](const float(&x)[8], int64_t row, bool there) {
          if (there) store_some<kAligned>(static_cast<T*>(p.dx) + row * p.ld_dx + feature, pack_row<T, 8>(x), left);
        };
        store(dx_low, row_low, low_there);
        store(dx_high, row_high, high_there);
      }
      if constexpr (kSource == Source::swiglu) {
        const auto store = [&](const Row<T, 8>& gate_row, const Row<T, 8>& up_row, const float(&dx)[8], int64_t row) {
          float gate[8], up[8], dgate[8], dup[8];
          unpack(gate_row, gate);
          unpack(up_row, up);
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            const float sigmoid = 1 / (1 + expf(-gate[i])), silu = gate[i] * sigmoid;
            dup[i] = dx[i] * silu;
            dgate[i] = dx[i] * up[i] * (sigmoid + silu * (1 - sigmoid));
          }
          T* out = static_cast<T*>(p.out) + row * p.ld_out + feature;
          store_some<kAligned>(out, pack_row<T, 8>(dgate), left);
          store_some<kAligned>(out + p.k, pack_row<T, 8>(dup), left);
        };
        if (low_there) store(in_low, up_low, dx_low, row_low);
        if (high_there) store(in_high, up_high, dx_high, row_high);
      }
      if constexpr (kSource == Source::norm) {
        float dot_low = 0, dot_high = 0, h[8];
        unpack(in_low, h);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          dot_low += dx_low[i] * gain[i] * h[i];
          dgain[i] += dx_low[i] * h[i] * rstd_low;
        }
        unpack(in_high, h);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          dot_high += dx_high[i] * gain[i] * h[i];
          dgain[i] += dx_high[i] * h[i] * rstd_high;
        }
        dot_low = sum_of_row(dot_low), dot_high = sum_of_row(dot_high);
        if (lane.t == 0 && tile_feature < p.k) {
          float* parts = params.row_parts + tile_feature / kTileFeatures * p.m;
          if (low_there) parts[row_low] = dot_low;
          if (high_there) parts[row_high] = dot_high;
        }
      }
    }
  }

  if constexpr (kTurned > 0) {
    float* parts = params.da_parts + static_cast<int64_t>(blockIdx.y) * params.da_count * p.k + feature;
#pragma unroll
    for (int r = 0; r < kTurned; ++r) store_columns(parts, p.k, 16 * r, params.da_count, left, da[r], params.add, lane);
  }
  if constexpr (kSource == Source::norm) {
    if (params.dgain_parts) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {  // sum over the eight groups of lanes, which hold the rows
        dgain[i] += __shfl_xor_sync(0xffffffffu, dgain[i], 4);
        dgain[i] += __shfl_xor_sync(0xffffffffu, dgain[i], 8);
        dgain[i] += __shfl_xor_sync(0xffffffffu, dgain[i], 16);
        float* part = params.dgain_parts + static_cast<int64_t>(blockIdx.y) * p.k + feature + i;
        if (lane.g == 0 && i < left) *part = params.add ? *part + dgain[i] : dgain[i];
      }
    }
  }
}

// dh of 16 rows a block, from the sums that column_kernel left.
template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads, kIs16Bit<T> ? 2 : 1) row_kernel(const __grid_constant__ Params params) {
  const InputGrad& p = params.p;
  const Lane lane = this_lane();
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t first = params.first_row + static_cast<int64_t>(blockIdx.x) * kTileRows;
  const int64_t row_low = first + lane.g, row_high = row_low + 8, end = params.end_row;
  const bool low_there = row_low < end, high_there = row_high < end;
  const int parts = static_cast<int>(ceil_div(p.k, kTileFeatures));

  Shared shared;
  float* sums = shared.take<float>(kThreads);
  {
    const int row = static_cast<int>(threadIdx.x) % kTileRows;
    float sum = 0;
    if (first + row < end)
      for (int i = static_cast<int>(threadIdx.x) / kTileRows; i < parts; i += kThreads / kTileRows)
        sum += params.row_parts[i * p.m + first + row];
    sums[threadIdx.x] = sum;
  }
  __syncthreads();
  float dot_low = 0, dot_high = 0;
#pragma unroll
  for (int i = 0; i < kThreads / kTileRows; ++i) {
    dot_low += sums[i * kTileRows + lane.g];
    dot_high += sums[i * kTileRows + lane.g + 8];
  }
  const float rstd_low = low_there ? p.rstd_M[row_low] : 0, rstd_high = high_there ? p.rstd_M[row_high] : 0;
  const float width = static_cast<float>(p.k);
  const float c_low = dot_low * rstd_low * rstd_low * rstd_low / width;
  const float c_high = dot_high * rstd_high * rstd_high * rstd_high / width;
  const DropoutRow draw_low = dropout_row(p.updates.dropout, low_there ? row_low : first);
  const DropoutRow draw_high = dropout_row(p.updates.dropout, high_there ? row_high : first);

  for (int tile = warp; tile < parts; tile += kWarps) {
    const int64_t tile_feature = int64_t{tile} * kTileFeatures, feature = tile_feature + 8 * lane.t,
                  left = p.k - feature;
    const auto load = [&](const void* from, int64_t ld, int64_t row, bool there, float(&x)[8]) {
      unpack(there ? load_some<kAligned>(static_cast<const T*>(from) + row * ld + feature, left) : zero_row<T, 8>(), x);
    };
    float dx_low[8], dx_high[8], h[8], gain[8], rest[8];
    load(p.dx, p.ld_dx, row_low, low_there, dx_low);
    load(p.dx, p.ld_dx, row_high, high_there, dx_high);
    load(p.gain_K, 0, 0, true, gain);
    if (p.at_KR) add_low_rank<T>(dx_low, dx_high, p, row_low, row_high, end, tile_feature, draw_low, draw_high, lane);
    const auto finish = [&](float(&dx)[8], int64_t row, bool there, float rstd, float c) {
      load(p.in, p.ld_in, row, there, h);
      load(p.residual, p.ld_residual, row, there && p.residual, rest);
#pragma unroll
      for (int i = 0; i < 8; ++i) dx[i] = rest[i] + (dx[i] * gain[i] * rstd - h[i] * c);
      if (there) store_some<kAligned>(static_cast<T*>(p.out) + row * p.ld_out + feature, pack_row<T, 8>(dx), left);
    };
    finish(dx_low, row_low, low_there, rstd_low, c_low);
    finish(dx_high, row_high, high_there, rstd_high, c_high);
  }
}

struct SumParams {
  const float* parts;  // [count][rows][cols]
  int64_t count, rows, cols;
  float* to;
  int64_t ld;
};
__global__ void __launch_bounds__(256, 4) sum_kernel(const __grid_constant__ SumParams params) {
  const int64_t size = params.rows * params.cols, i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= size) return;
  float sum = 0;
  for (int64_t part = 0; part < params.count; ++part) sum += params.parts[part * size + i];
  params.to[i / params.cols * params.ld + i % params.cols] = sum;
}
void launch_sum(const char* name, const SumParams& p, Stream stream) {
  launch(name, sum_kernel, {ceil_div(p.rows * p.cols, 256)}, 256, 0, stream, p);
}

template <class T, Source kSource, int kColumnTiles, bool kAligned>
void launch_column(const Params& params, int64_t slabs, Stream stream) {
  launch(kSource == Source::plain  ? "input_grad plain"
         : kSource == Source::norm ? "input_grad norm"
                                   : "input_grad swiglu",
         column_kernel<T, kSource, kColumnTiles, kAligned>, {ceil_div(params.p.k, kStripe), slabs}, kColumnThreads, 0,
         stream, params);
}

template <class T, Source kSource, bool kAligned>
void run(const InputGrad& p, Stream stream) {
  const Cut cut = cut_of(p);
  const int64_t columns = p.da_RK ? p.updates.columns() : 0;
  float* row_parts = p.workspace;
  float* dgain_parts = row_parts + (kSource == Source::norm && p.dx ? cut.row_parts * p.m : 0);
  float* da_parts = dgain_parts + (p.dgain_K ? cut.slabs * p.k : 0);
  for (int64_t first = 0; first < p.m; first += cut.slice_rows) {
    Params params{p, first,    std::min(p.m, first + cut.slice_rows), cut.slab_rows, first > 0, 0,
                  0, da_parts, p.dgain_K ? dgain_parts : nullptr,     row_parts};
    // The last slice may have fewer rows: slabs that it does not reach keep the sums of the others.
    const int64_t slabs = ceil_div(params.end_row - first, cut.slab_rows);
    for (int64_t begin = 0; begin == 0 || begin < columns; begin += kMostColumns<T>) {
      params.da_begin = static_cast<int32_t>(begin);
      params.da_count = static_cast<int32_t>(std::min(columns - begin, kMostColumns<T>));
      params.da_parts = da_parts + begin * cut.slabs * p.k;
      if (begin > 0) params.p.dx = nullptr, params.dgain_parts = nullptr;  // done by the first launch
      with_column_tiles<T, kAligned>(params.da_count, [&](auto tiles) {
        launch_column<T, kSource, decltype(tiles)::value, kAligned>(params, slabs, stream);
      });
    }
    if (kSource == Source::norm && p.dx) {
      params.p.dx = p.dx;
      launch("input_grad norm rows", row_kernel<T, kAligned>, {ceil_div(params.end_row - first, kTileRows)}, kThreads,
             shared_bytes<float>(kThreads), stream, params);
    }
  }
  const int64_t slabs = p.m > 0 ? cut.slabs : 0;
  for (int64_t begin = 0; begin < columns; begin += kMostColumns<T>)
    launch_sum("input_grad sum dA",
               {da_parts + begin * cut.slabs * p.k, slabs, std::min(columns - begin, kMostColumns<T>), p.k,
                p.da_RK + begin * p.k, p.k},
               stream);
  if (p.dgain_K) launch_sum("input_grad sum dgain", {dgain_parts, slabs, 1, p.k, p.dgain_K, p.k}, stream);
}

}  // namespace

int64_t input_grad_workspace(const InputGrad& p) {
  const Cut cut = cut_of(p);
  int64_t floats = 0;
  if (p.source == Source::norm && p.dx) floats += cut.row_parts * p.m;
  if (p.dgain_K) floats += cut.slabs * p.k;
  if (p.da_RK) floats += cut.slabs * p.k * p.updates.columns();
  return floats * static_cast<int64_t>(sizeof(float));
}

void input_grad(const InputGrad& p, Stream stream) {
  const auto aligned = [](const void* x, int64_t ld) {
    return reinterpret_cast<uintptr_t>(x) % 16 == 0 && ld % 8 == 0;
  };
  const bool all = p.k % 8 == 0 && aligned(p.in, p.ld_in) && aligned(p.gain_K, 0) && aligned(p.dx, p.ld_dx) &&
                   aligned(p.residual, p.ld_residual) && aligned(p.out, p.ld_out);
  with_dtype(p.dtype, [&]<class T>(T) {
    switch (p.source) {
      case Source::plain:
        return all ? run<T, Source::plain, true>(p, stream) : run<T, Source::plain, false>(p, stream);
      case Source::norm:
        return all ? run<T, Source::norm, true>(p, stream) : run<T, Source::norm, false>(p, stream);
      case Source::swiglu:
        return all ? run<T, Source::swiglu, true>(p, stream) : run<T, Source::swiglu, false>(p, stream);
    }
  });
}

}  // namespace rankfold::kernels
