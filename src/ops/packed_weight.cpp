#include "ops/packed_weight.h"

#include "ops/augmented.h"
#include "ops/code_books.h"
#include "ops/rowwise.h"

#include <atomic>
#include <cmath>

namespace rankfold {
namespace {

template <class T>
const T* pointer(const at::Tensor& x) {
  return x.defined() ? static_cast<const T*>(x.const_data_ptr()) : nullptr;
}

}  // namespace

kernels::Packed PackedWeight::view() const {
  kernels::Packed w{.packing = packing, .rounded = ops::dtype_of(rounded), .n = rows, .k = columns};
  w.codes = codes.const_data_ptr();
  w.scale = pointer<float>(scale);
  if (packing == kernels::Packing::plain) {
    w.stored = ops::dtype_of(codes.scalar_type());
  } else if (packing == kernels::Packing::table) {
    w.table = pointer<float>(table);
    w.block = block;
    w.nested_codes = pointer<uint8_t>(nested_codes);
    w.nested_table = pointer<float>(nested_table);
    w.nested_block = nested_block;
    w.offset = offset;
  } else {
    w.scale_rows = scale_rows;
    w.scale_columns = scale_columns;
    w.ld_scale = rows == 0 ? 0 : scale.numel() / kernels::ceil_div(rows, scale_rows);
  }
  if (packing == kernels::Packing::grouped) {
    w.bits = bits;
    w.ld_codes = rows == 0 ? 0 : static_cast<int64_t>(codes.nbytes()) / rows;
    w.zero = pointer<uint8_t>(zero);
    w.group_of = pointer<int32_t>(group_of);
  }
  return w;
}

int64_t PackedWeight::bytes() const {
  size_t sum = 0;
  for (const at::Tensor* x : {&codes, &scale, &table, &nested_codes, &nested_table, &zero, &group_of})
    if (x->defined()) sum += x->nbytes();
  return static_cast<int64_t>(sum);
}

PackedWeight PackedWeight::to(at::Device device) const {
  PackedWeight copy = *this;
  for (at::Tensor* x :
       {&copy.codes, &copy.scale, &copy.table, &copy.nested_codes, &copy.nested_table, &copy.zero, &copy.group_of})
    if (x->defined()) *x = x->to(device);
  return copy;
}

namespace ops {

PackedWeight plain_weight(const at::Tensor& stored) {
  RANKFOLD_CHECK(stored.dim() == 2 && stored.is_contiguous(), "plain_weight: expected a contiguous matrix, got ",
                 stored.sizes(), " with strides ", stored.strides());
  dtype_of(stored.scalar_type());
  PackedWeight weight;
  weight.rows = stored.size(0), weight.columns = stored.size(1), weight.codes = stored;
  return weight;
}

void decode(const PackedWeight& weight, int64_t begin, int64_t end, int64_t first, int64_t last, const at::Tensor& to) {
  RANKFOLD_CHECK(0 <= begin && begin <= end && end <= weight.rows && 0 <= first && first <= last &&
                     last <= weight.columns && to.dim() == 2 && to.size(0) == end - begin && to.size(1) == last - first,
                 "decode: rows [", begin, ", ", end, ") and columns [", first, ", ", last, ") of [", weight.rows, ", ",
                 weight.columns, "] into ", to.sizes());
  RANKFOLD_CHECK(to.device().is_cpu() && weight.codes.device().is_cpu(), "decode: expected matrices on the CPU");
  const int64_t rows = end - begin, columns = last - first;
  if (rows == 0 || columns == 0) return;
  RANKFOLD_CHECK(columns == 1 || to.stride(1) == 1, "decode: expected dense rows, got strides ", to.strides());
  const kernels::Packed packed = weight.view();
  const int64_t pitch = to.stride(0), threads = at::get_num_threads();
  // A few rows are cut into parts that begin at blocks.
  const int64_t part = rows >= threads
                           ? columns
                           : kernels::ceil_div(kernels::ceil_div(columns, kernels::ceil_div(threads, rows)), 64) * 64;
  const int64_t parts = kernels::ceil_div(columns, part);
  with_dtype(to.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    T* const out = data<T>(to);
    const auto decode_rows = cpu::loops().of<T>().decode;
    if (parts == 1) {
      return for_rows(rows, columns, [&](int64_t from, int64_t to_row) {
        decode_rows(packed, begin + from, begin + to_row, first, last, out + from * pitch, pitch);
      });
    }
    for_rows(rows * parts, part, [&](int64_t from, int64_t to_unit) {
      for (int64_t unit = from; unit < to_unit; ++unit) {
        const int64_t row = unit / parts, column = unit % parts * part;
        decode_rows(packed, begin + row, begin + row + 1, first + column, std::min(first + column + part, last),
                    out + row * pitch + column, pitch);
      }
    });
  });
}

namespace {

constexpr int64_t kQuantizedRun = 4096;  // elements that a thread makes fp32 at a time, where that suffices

at::Tensor memory_of(at::IntArrayRef shape, at::ScalarType dtype) { return at::empty(shape, at::TensorOptions(dtype)); }

// A matrix as it is read: fp32 of consecutive elements.
class MatrixReader {
 public:
  // As float16 first, where `rounded` says so.
  MatrixReader(const at::Tensor& x, at::ScalarType rounded) {
    flat_.stored = dtype_of(x.scalar_type());
    flat_.rounded = ops::dtype_of(rounded);
    flat_.n = 1, flat_.k = x.numel();
    flat_.codes = x.const_data_ptr();
  }
  void read(int64_t begin, int64_t count, float* to) const {
    cpu::loops().f32.decode(flat_, 0, 1, begin, begin + count, to, count);
    if (count > 0 && !std::isfinite(cpu::loops().largest(to, count))) finite_ = false;
  }
  bool is_finite() const { return finite_; }

 private:
  kernels::Packed flat_;
  mutable std::atomic<bool> finite_ = true;
};

void quantize_in_blocks(const MatrixReader& source, const CodeBook& book, int64_t begin, int64_t end,
                        PackedWeight& to) {
  const int64_t first = begin * to.columns, count = end * to.columns - first,
                runs = kernels::ceil_div(count, kQuantizedRun);
  for_rows(runs, kQuantizedRun, [&](int64_t from, int64_t to_run) {
    alignas(64) float values[kQuantizedRun];
    for (int64_t run = from; run < to_run; ++run) {
      const int64_t element = first + run * kQuantizedRun;
      const int64_t size = std::min(kQuantizedRun, first + count - element);
      source.read(element, size, values);
      cpu::loops().quantize_table(values, size, to.block, book.bounds.data(), book.order.data(),
                                  data<float>(to.scale) + element / to.block, data<uint8_t>(to.codes) + element / 2);
    }
  });
}

void quantize_by_row(const MatrixReader& source, Quantization type, int64_t begin, int64_t end, PackedWeight& to) {
  const int64_t k = to.columns;
  const ThreadScratch scratch(k * static_cast<int64_t>(sizeof(float)));
  for_rows(end - begin, k, [&](int64_t from, int64_t to_row) {
    float* const values = static_cast<float*>(scratch.mine());
    for (int64_t row = begin + from; row < begin + to_row; ++row) {
      source.read(row * k, k, values);
      float* const scale = data<float>(to.scale) + row;
      if (type == Quantization::int8)
        cpu::loops().quantize_int8(values, 1, k, scale, data<int8_t>(to.codes) + row * k);
      else
        cpu::loops().quantize_fp8(values, 1, k, scale, static_cast<uint8_t*>(to.codes.data_ptr()) + row * k);
    }
  });
}

}  // namespace

PackedWeight quantize(const at::Tensor& weight, Quantization type) {
  RANKFOLD_CHECK(weight.dim() == 2 && weight.is_contiguous() && weight.device().is_cpu(),
                 "quantize: expected a contiguous matrix on the CPU, got ", weight.sizes(), " with strides ",
                 weight.strides());
  const bool is_table = type == Quantization::nf4 || type == Quantization::fp4, is_int8 = type == Quantization::int8;
  const int64_t rows = weight.size(0), columns = weight.size(1), count = rows * columns;
  PackedWeight packed;
  packed.rows = rows, packed.columns = columns;
  if (is_table) {
    packed.packing = kernels::Packing::table;
    packed.rounded = weight.scalar_type();
    packed.codes = memory_of({kernels::ceil_div(count, 2)}, at::kByte);
    packed.scale = memory_of({kernels::ceil_div(count, packed.block)}, at::kFloat);
    packed.table = memory_of({16}, at::kFloat);
    std::copy_n(code_book(type).values.begin(), 16, data<float>(packed.table));
  } else {
    packed.packing = is_int8 ? kernels::Packing::int8 : kernels::Packing::fp8;
    packed.codes = memory_of({rows, columns}, is_int8 ? at::kChar : at::kFloat8_e4m3fn);
    packed.scale = memory_of({rows, 1}, at::kFloat);
    packed.scale_columns = columns;
  }
  // LLM.int8() takes its numbers from float16.
  const MatrixReader source(weight, is_int8 ? at::kHalf : at::kFloat);
  if (is_table)
    quantize_in_blocks(source, code_book(type), 0, rows, packed);
  else
    quantize_by_row(source, type, 0, rows, packed);
  RANKFOLD_CHECK(source.is_finite(), "expected finite numbers", is_int8 ? " of float16, which int8 is made from" : "");
  return packed;
}

void nest_scales(PackedWeight& weight) {
  const float* const scale = const_data<float>(weight.scale);
  double sum = 0;
  for (int64_t i = 0; i < weight.scale.numel(); ++i) sum += scale[i];
  nest_scales(weight, static_cast<float>(sum / static_cast<double>(std::max<int64_t>(weight.scale.numel(), 1))));
}

void nest_scales(PackedWeight& weight, float offset) {
  RANKFOLD_CHECK(weight.packing == kernels::Packing::table && !weight.nested_codes.defined(),
                 "nest_scales: expected scales of blocks in fp32");
  const int64_t count = weight.scale.numel(), block = weight.nested_block;
  const at::Tensor codes = memory_of({count}, at::kByte),
                   largest = memory_of({kernels::ceil_div(count, block)}, at::kFloat);
  const float* const scale = const_data<float>(weight.scale);
  for_rows(largest.numel(), block, [&](int64_t from, int64_t to_block) {
    for (int64_t b = from; b < to_block; ++b) {
      const int64_t begin = b * block, end = std::min(begin + block, count);
      float most = 0;
      for (int64_t i = begin; i < end; ++i) most = std::max(most, std::abs(scale[i] - offset));
      const float reciprocal =
          1 / most;  // infinite where all are the mean: NaN has the code 0 then, as in bitsandbytes
      for (int64_t i = begin; i < end; ++i) data<uint8_t>(codes)[i] = dynamic_code((scale[i] - offset) * reciprocal);
      data<float>(largest)[b] = most;
    }
  });
  weight.nested_table = memory_of({256}, at::kFloat);
  std::copy_n(dynamic_values().begin(), 256, data<float>(weight.nested_table));
  weight.nested_codes = codes, weight.scale = largest, weight.offset = offset;
}

}  // namespace ops
}  // namespace rankfold
