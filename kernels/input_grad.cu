// Kernels of input_grad.h.
// Traffic  plain: dX and x in, dX out. glu: dX, gate, up in, dgate, dup out. norm: dX, h and the residual in, dh
//          out; it works through the rows in slices, so that its second kernel reads h, and dx or dX, from the L2
//          cache. M=8192 K=4096 bf16: norm 268 MB, 80 us; glu at K=11008 902 MB, 269 us; both at the 3.35 TB/s of an
//          H100. dA's partial sums: 4 R K bytes for each slab (range of rows), in the L2.
// Work     column_kernel: a block owns a stripe of 128 columns and a slab of rows, a warp 32 of the columns. The tensor
//          cores compute the low-rank part of each tile of dX from A transposed (in the L1). The same random draws mask
//          this part and x. movmatrix transposes the masked x into the right operand of dA = dS^T x. dA stays in
//          registers over the slab. No barrier, no shared memory. For norm, each warp writes its part of a row's sum
//          over features as one number, and dx in the place of dh. row_kernel adds these numbers and turns dx into dh.
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
constexpr int64_t kRowFeatures = 2048;
// Blocks of column_kernel on a multiprocessor, by registers.
RANKFOLD_HOST_DEVICE constexpr int blocks_of(bool is_16_bit, Source source, int64_t column_tiles) {
  const int64_t most = source == Source::glu ? 0 : 2;
  return is_16_bit && column_tiles <= most ? 3 : 2;
}
constexpr int64_t kMostWaves = 3;
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
  // The number of slabs with which the blocks fill whole waves best.
  const int64_t most = ceil_div(cut.slice_rows, kFewestRows) + 1;
  const int64_t column_tiles = p.da_RK ? ceil_div(p.updates.columns(), 8) + (p.dgain_K ? 2 : 0) : 0;
  const int64_t resident = kMultiprocessors * blocks_of(p.dtype != Dtype::f32, p.source, column_tiles);
  int64_t wanted = 1;
  double fullest = 0;
  for (int64_t waves = 1; waves <= kMostWaves; ++waves) {
    const int64_t slabs = std::min(resident * waves / std::max<int64_t>(cut.stripes, 1), most);
    const double full = static_cast<double>(slabs * cut.stripes) / static_cast<double>(resident * waves);
    if (slabs > 0 && full > fullest + 0.02) wanted = slabs, fullest = full;
  }
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
  float* row_parts;    // [M][row parts]: sums of dx gain h over a warp's columns
};

template <class T, Source kSource, int kColumnTiles, bool kAligned>
__global__ void __launch_bounds__(kColumnThreads, blocks_of(kIs16Bit<T>, kSource, kColumnTiles))
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

  Row<T, 8> gain_row = zero_row<T, 8>();
  if constexpr (kSource == Source::norm)
    gain_row = load_some<kAligned>(static_cast<const T*>(p.gain_K) + feature, left);
  // A transposed belongs to the features alone: up to 16 columns of it stay in registers. A launch with more columns in
  // all, or for later ones, is not of this kind or adds nothing to dx.
  constexpr bool kHeld = kColumnTiles == 2 && kIs16Bit<T>;
  Row<T, 4> at_held[4];
  if constexpr (kHeld) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t row = tile_feature + feature_of(j, lane.g);
      at_held[j] = p.dx && p.at_KR && row < p.k && 4 * lane.t < p.updates.columns()
                       ? load_row<T, 4>(static_cast<const T*>(p.at_KR) + row * p.ld_at + 4 * lane.t)
                       : zero_row<T, 4>();
    }
  }
  float da[kTurned > 0 ? kTurned : 1][4][4] = {};
  // Registers for both are only there with none or many columns of dA; run() takes the kernel for many then.
  constexpr bool kHasGain = kSource == Source::norm && (kTurned == 0 || kColumnTiles > 2);
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
    if constexpr (kSource == Source::glu) {
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
      x_low = norm_row<T>(in_low, rstd_low, gain_row, p.gain_offset);
      x_high = norm_row<T>(in_high, rstd_high, gain_row, p.gain_offset);
    }
    if constexpr (kSource == Source::glu) {
      x_low = glu_row<T>(p.gate, in_low, up_low);
      x_high = glu_row<T>(p.gate, in_high, up_high);
    }
    DropoutRow draw_low{}, draw_high{};
    if (p.updates.count > 0) {
      draw_low = dropout_row(dropout, low_there ? row_low : first);
      draw_high = dropout_row(dropout, high_there ? row_high : first);
    }

    // Update by update: one draw of its mask serves dA and the low-rank part of dx.
    const T* ds = static_cast<const T*>(p.ds_MR);
    const bool adds = p.dx && p.at_KR;
#pragma unroll 1
    for (int u = 0; u < p.updates.count; ++u) {
      const Update& update = p.updates.update[u];
      // The columns of this update whose dA is summed here.
      const int da_end = params.da_begin + params.da_count;
      const int from = update.begin > params.da_begin ? update.begin : params.da_begin;
      const int to = update.end < da_end ? update.end : da_end;
      Draws keep_low{}, keep_high{};
      if (dropout.threshold > 0) {
        keep_low = draw(dropout, draw_low, update, feature);
        keep_high = draw(dropout, draw_high, update, feature);
      }
      if constexpr (kTurned > 0) {
        if (from < to) {
          Row<T, 8> low = x_low, high = x_high;
          if (dropout.threshold > 0) {
            low = masked(x_low, keep_low, dropout.threshold);
            high = masked(x_high, keep_high, dropout.threshold);
          }
#pragma unroll
          for (int r = 0; r < kTurned; ++r) {
            // A tile of 16 columns may hold the end of one update and the begin of the next: each adds its own columns.
            const int column = params.da_begin + 16 * r;
            if (column < to && column + 16 > from)
              multiply_columns<T>(da[r],
                                  load_turned(ds + first * p.ld_ds, p.ld_ds, end - first, column, from, to, lane), low,
                                  high, lane);
          }
        }
      }
      if (adds) {
        float y[4][4] = {};
        if constexpr (kHeld) {
          const int column = 4 * lane.t;
          const bool ours = column >= update.begin && column < update.end;
          const Row<T, 4> low = ours && low_there ? load_row<T, 4>(ds + row_low * p.ld_ds + column) : zero_row<T, 4>();
          const Row<T, 4> high =
              ours && high_there ? load_row<T, 4>(ds + row_high * p.ld_ds + column) : zero_row<T, 4>();
#pragma unroll
          for (int j = 0; j < 4; ++j) multiply_rows<T, 4>(y[j], low, high, at_held[j]);
        } else {
          add_product<T>(y, low_there ? ds + row_low * p.ld_ds : nullptr,
                         high_there ? ds + row_high * p.ld_ds : nullptr,
                         static_cast<const T*>(p.at_KR) + tile_feature * p.ld_at, p.ld_at, update.begin, update.end,
                         p.k - tile_feature, lane);
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          if (dropout.threshold == 0 || kept(keep_low, i, dropout.threshold)) dx_low[i] += y[i / 2][i % 2];
          if (dropout.threshold == 0 || kept(keep_high, i, dropout.threshold)) dx_high[i] += y[i / 2][2 + i % 2];
        }
      }
    }

    if (p.dx) {
      if (kSource == Source::plain || (kSource == Source::norm && adds)) {
        // norm: dx, complete, waits for row_kernel in the place of dh.
        T* to = static_cast<T*>(kSource == Source::plain ? p.dx : p.out) + feature;
        const int64_t ld = kSource == Source::plain ? p.ld_dx : p.ld_out;
        if (low_there) store_some<kAligned>(to + row_low * ld, pack_row<T, 8>(dx_low), left);
        if (high_there) store_some<kAligned>(to + row_high * ld, pack_row<T, 8>(dx_high), left);
      }
      if constexpr (kSource == Source::glu) {
        const auto store = [&](const Row<T, 8>& gate_row, const Row<T, 8>& up_row, const float(&dx)[8], int64_t row) {
          float gate[8], up[8], dgate[8], dup[8];
          unpack(gate_row, gate);
          unpack(up_row, up);
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            const float s = gate_sigmoid<T>(p.gate, gate[i]), act = gate[i] * s;
            const float slope = p.gate.linear + 3 * p.gate.cubic * bounded_square(gate[i]);  // of what s is made of
            dup[i] = dx[i] * act;
            dgate[i] = dx[i] * up[i] * (s + act * (1 - s) * slope);
          }
          T* out = static_cast<T*>(p.out) + row * p.ld_out + feature;
          store_some<kAligned>(out, pack_row<T, 8>(dgate), left);
          store_some<kAligned>(out + p.k, pack_row<T, 8>(dup), left);
        };
        if (low_there) store(in_low, up_low, dx_low, row_low);
        if (high_there) store(in_high, up_high, dx_high, row_high);
      }
      if constexpr (kSource == Source::norm) {
        float dot_low = 0, dot_high = 0, h[8], gain[8];
        unpack(gain_row, gain);
        unpack(in_low, h);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          gain[i] += p.gain_offset;
          dot_low += dx_low[i] * gain[i] * h[i];
          if constexpr (kHasGain) dgain[i] += dx_low[i] * h[i] * rstd_low;
        }
        unpack(in_high, h);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          dot_high += dx_high[i] * gain[i] * h[i];
          if constexpr (kHasGain) dgain[i] += dx_high[i] * h[i] * rstd_high;
        }
        dot_low = sum_of_row(dot_low), dot_high = sum_of_row(dot_high);
        if (lane.t == 0 && tile_feature < p.k) {
          float* parts = params.row_parts + tile_feature / kTileFeatures;
          const int64_t ld = ceil_div(p.k, kTileFeatures);
          if (low_there) parts[row_low * ld] = dot_low;
          if (high_there) parts[row_high * ld] = dot_high;
        }
      }
    }
  }

  if constexpr (kTurned > 0) {
    float* parts = params.da_parts + static_cast<int64_t>(blockIdx.y) * params.da_count * p.k + feature;
#pragma unroll
    for (int r = 0; r < kTurned; ++r) store_columns(parts, p.k, 16 * r, params.da_count, left, da[r], params.add, lane);
  }
  if constexpr (kHasGain) {
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

// dh from the sums that column_kernel left: a warp has kRowFeatures features of one row.
template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads, 3) row_kernel(const __grid_constant__ Params params) {
  const InputGrad& p = params.p;
  const int lane = this_lane().index;
  const int64_t row = params.first_row + static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  const bool there = row < params.end_row;
  const int64_t parts = ceil_div(p.k, kTileFeatures);
  float dot = 0;
  if (there)
    for (int64_t i = lane; i < parts; i += kWarp) dot += params.row_parts[row * parts + i];
#pragma unroll
  for (int other = 16; other > 0; other /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, other);
  if (!there) return;  // no barrier follows
  const float rstd = p.rstd_M[row], c = dot * rstd * rstd * rstd / static_cast<float>(p.k);
  const T* from = p.at_KR ? static_cast<const T*>(p.out) + row * p.ld_out : static_cast<const T*>(p.dx) + row * p.ld_dx;
  const T* in = static_cast<const T*>(p.in) + row * p.ld_in;
  const T* residual = static_cast<const T*>(p.residual) + row * p.ld_residual;
  T* out = static_cast<T*>(p.out) + row * p.ld_out;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * kRowFeatures;
  const int64_t end = begin + kRowFeatures < p.k ? begin + kRowFeatures : p.k;
  constexpr int kAhead = kIs16Bit<T> ? 2 : 1;  // loads under way before the first store
  constexpr int64_t kStep = 8 * kWarp;
  for (int64_t feature = begin + 8 * lane; feature < end; feature += kAhead * kStep) {
    Row<T, 8> dx_row[kAhead], h_row[kAhead], rest_row[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int64_t at = feature + a * kStep, left = end - at;
      dx_row[a] = load_some<kAligned>(from + at, left);
      h_row[a] = load_some<kAligned>(in + at, left);
      rest_row[a] = p.residual ? load_some<kAligned>(residual + at, left) : zero_row<T, 8>();
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int64_t at = feature + a * kStep, left = end - at;
      float dx[8], h[8], gain[8], rest[8];
      unpack(dx_row[a], dx);
      unpack(h_row[a], h);
      unpack(rest_row[a], rest);
      unpack(load_some<kAligned>(static_cast<const T*>(p.gain_K) + at, left), gain);
#pragma unroll
      for (int i = 0; i < 8; ++i) dx[i] = rest[i] + (dx[i] * (gain[i] + p.gain_offset) * rstd - h[i] * c);
      store_some<kAligned>(out + at, pack_row<T, 8>(dx), left);
    }
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
                                   : "input_grad glu",
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
      if (begin > 0) params.p.dx = nullptr, params.dgain_parts = nullptr;        // done by the first launch
      const int64_t least = params.dgain_parts && params.da_count > 0 ? 17 : 0;  // of the kernels that sum dgain too
      with_column_tiles<T, kAligned>(std::max<int64_t>(params.da_count, least), [&](auto tiles) {
        launch_column<T, kSource, decltype(tiles)::value, kAligned>(params, slabs, stream);
      });
    }
    if (kSource == Source::norm && p.dx) {
      params.p.dx = p.dx;
      launch("input_grad norm rows", row_kernel<T, kAligned>,
             {ceil_div(params.end_row - first, kWarps), ceil_div(p.k, kRowFeatures)}, kThreads, 0, stream, params);
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
  const bool all = p.k % 8 == 0 && is_aligned(p.in, p.ld_in) && is_aligned(p.gain_K) && is_aligned(p.dx, p.ld_dx) &&
                   is_aligned(p.residual, p.ld_residual) && is_aligned(p.out, p.ld_out);
  with_dtype(p.dtype, [&]<class T>(T) {
    switch (p.source) {
      case Source::plain:
        return all ? run<T, Source::plain, true>(p, stream) : run<T, Source::plain, false>(p, stream);
      case Source::norm:
        return all ? run<T, Source::norm, true>(p, stream) : run<T, Source::norm, false>(p, stream);
      case Source::glu:
        return all ? run<T, Source::glu, true>(p, stream) : run<T, Source::glu, false>(p, stream);
    }
  });
}

}  // namespace rankfold::kernels
