// Weights in fewer bits: decoding against the definition of kernels/packed.h, one element at a time, and quantisation
// against what bitsandbytes 0.50.1 made of the same numbers.
#include "ops/code_books.h"
#include "ops/packed_weight.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace rankfold {
namespace {

uint32_t mixed(uint32_t i) {
  uint32_t h = i * 2654435761u;
  h ^= h >> 15;
  h *= 2246822519u;
  return h ^ h >> 13;
}
at::Tensor random_bytes(at::IntArrayRef shape, uint32_t seed) {
  at::Tensor x = at::empty(shape, at::kByte);
  auto* bytes = static_cast<uint8_t*>(x.data_ptr());
  for (int64_t i = 0; i < x.numel(); ++i) bytes[i] = static_cast<uint8_t>(mixed(static_cast<uint32_t>(i) + seed) >> 9);
  return x;
}
// Of many magnitudes, so that values meet every range of bf16 and float16.
at::Tensor random_scales(at::IntArrayRef shape, uint32_t seed) {
  at::Tensor x = at::empty(shape, at::kFloat);
  auto* values = static_cast<float*>(x.data_ptr());
  for (int64_t i = 0; i < x.numel(); ++i) {
    const uint32_t h = mixed(static_cast<uint32_t>(i) + seed);
    values[i] = std::ldexp(1 + static_cast<float>(h >> 9) * 0x1p-23f, static_cast<int>(h % 45) - 28);
  }
  return x;
}

// The definition.
class Definition {
 public:
  explicit Definition(const PackedWeight& weight) : w_(weight) {}
  float operator()(int64_t n, int64_t k) const {
    const float value = exact(n, k);
    if (w_.rounded == at::kBFloat16) return c10::BFloat16(value);
    if (w_.rounded == at::kHalf) return c10::Half(value);
    return value;
  }

 private:
  float exact(int64_t n, int64_t k) const {
    const int64_t i = n * w_.columns + k;
    switch (w_.packing) {
      case kernels::Packing::plain:
        return w_.codes.scalar_type() == at::kFloat      ? at_index<float>(w_.codes, i)
               : w_.codes.scalar_type() == at::kBFloat16 ? float(at_index<c10::BFloat16>(w_.codes, i))
                                                         : float(at_index<c10::Half>(w_.codes, i));
      case kernels::Packing::table: {
        const int byte = at_index<uint8_t>(w_.codes, i / 2), nibble = i % 2 == 0 ? byte >> 4 : byte & 15;
        const int64_t block = i / w_.block;
        if (!w_.nested_codes.defined()) return at_index<float>(w_.table, nibble) * at_index<float>(w_.scale, block);
        const volatile float product = at_index<float>(w_.nested_table, at_index<uint8_t>(w_.nested_codes, block)) *
                                       at_index<float>(w_.scale, block / w_.nested_block);
        const float scale = product + w_.offset;
        return at_index<float>(w_.table, nibble) * scale;
      }
      case kernels::Packing::int8: {
        const volatile float product = static_cast<float>(at_index<int8_t>(w_.codes, i)) * scale_at(n, k);
        return product * kernels::kInt8Unit;
      }
      case kernels::Packing::fp8:
        return float(at_index<c10::Float8_e4m3fn>(w_.codes, i)) * scale_at(n, k);
      default: {
        const int64_t pitch = w_.codes.size(1);
        const int byte = at_index<uint8_t>(w_.codes, n * pitch + (w_.bits == 8 ? k : k / 2));
        const int code = w_.bits == 8 ? byte : k % 2 == 0 ? byte & 15 : byte >> 4;
        const int zero = at_index<uint8_t>(w_.zero, n / w_.scale_rows * groups() + group(k));
        return static_cast<float>(code - zero) * scale_at(n, k);
      }
    }
  }
  template <class T>
  static T at_index(const at::Tensor& x, int64_t i) {
    return static_cast<const T*>(x.const_data_ptr())[i];
  }
  int64_t groups() const { return w_.scale.size(1); }
  int64_t group(int64_t k) const {
    if (w_.group_of.defined()) return at_index<int32_t>(w_.group_of, k);
    return w_.scale_columns > 0 ? k / w_.scale_columns : 0;
  }
  float scale_at(int64_t n, int64_t k) const {
    return at_index<float>(w_.scale, n / w_.scale_rows * groups() + group(k));
  }

  const PackedWeight& w_;
};

int64_t parts(int64_t count, int64_t size) { return (count + size - 1) / size; }

std::vector<std::pair<std::string, PackedWeight>> every_packing(int64_t n, int64_t k) {
  std::vector<std::pair<std::string, PackedWeight>> all;
  const auto add = [&](const std::string& name, kernels::Packing packing) -> PackedWeight& {
    PackedWeight& w = all.emplace_back(name, PackedWeight()).second;
    w.packing = packing, w.rows = n, w.columns = k;
    return w;
  };
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf})  // all bits: infinities and NaN, too
    add(c10::toString(dtype), kernels::Packing::plain).codes =
        random_bytes({n, k * static_cast<int64_t>(c10::elementSize(dtype))}, 1).view(dtype);
  for (const int64_t block : {64, 32}) {
    for (const bool nested : {false, true}) {
      PackedWeight& w = add(nested ? "nested table" : "table", kernels::Packing::table);
      w.codes = random_bytes({parts(n * k, 2)}, 2);
      w.table = at::linspace(-1, 0.9, 16, at::kFloat);
      w.block = block;
      const int64_t blocks = parts(n * k, block);
      if (nested) {
        w.nested_block = block == 64 ? 256 : 3;
        w.nested_codes = random_bytes({blocks}, 3);
        w.nested_table = at::linspace(-1, 1, 256, at::kFloat);
        w.offset = 0.123456789f;
      }
      w.scale = random_scales({nested ? parts(blocks, w.nested_block) : blocks}, 4);
    }
  }
  PackedWeight& int8 = add("int8", kernels::Packing::int8);
  int8.codes = random_bytes({n, k}, 5).view(at::kChar);
  int8.scale = random_scales({n, 1}, 6);
  int8.scale_columns = k;
  for (const auto& [rows, columns] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 0}, {n + 1, 0}, {2, 24}, {128, 128}}) {
    PackedWeight& w = add("fp8 " + std::to_string(rows) + " x " + std::to_string(columns), kernels::Packing::fp8);
    w.codes = random_bytes({n, k}, 7).view(at::kFloat8_e4m3fn);
    w.scale_rows = rows, w.scale_columns = columns;
    w.scale = random_scales({parts(n, rows), columns > 0 ? parts(k, columns) : 1}, 8);
  }
  for (const int bits : {4, 8}) {
    for (const bool scattered : {false, true}) {
      PackedWeight& w = add((scattered ? "scattered " : "grouped ") + std::to_string(bits), kernels::Packing::grouped);
      w.bits = bits;
      w.codes = random_bytes({n, parts(k * bits, 8) + 3}, 9);
      w.scale_columns = 31;
      const int64_t groups = parts(k, w.scale_columns);
      w.scale = random_scales({n, groups}, 10);
      w.zero = random_bytes({n, groups}, 11);
      if (scattered) w.group_of = random_bytes({k}, 12).to(at::kInt).remainder(groups).contiguous();
    }
  }
  return all;
}

template <class T>
bool same(T a, T b) {
  return std::memcmp(&a, &b, sizeof a) == 0 ||
         (std::isnan(static_cast<double>(a)) && std::isnan(static_cast<double>(b)));
}

template <class T>
void expect_decoded(const PackedWeight& weight, int64_t begin, int64_t end, int64_t first, int64_t last,
                    const std::string& what) {
  constexpr int64_t kMore = 5;  // columns of the matrix that it is written into
  const at::Tensor wide = at::full({end - begin, last - first + kMore}, 7, c10::CppTypeToScalarType<T>::value);
  ops::decode(weight, begin, end, first, last, wide.narrow(1, 0, last - first));
  const Definition defined(weight);
  const T* got = static_cast<const T*>(wide.const_data_ptr());
  for (int64_t n = begin; n < end; ++n, got += last - first + kMore) {
    for (int64_t k = first; k < last; ++k) {
      const T expected = static_cast<T>(defined(n, k));
      if (same(got[k - first], expected)) continue;
      ADD_FAILURE() << what << " [" << weight.rows << ", " << weight.columns << "] at (" << n << ", " << k << "): got "
                    << static_cast<double>(got[k - first]) << ", expected " << static_cast<double>(expected);
      return;
    }
    for (int64_t k = last - first; k < last - first + kMore; ++k)
      EXPECT_EQ(static_cast<double>(got[k]), 7) << what << ": written beyond the columns";
  }
}

TEST(PackedWeight, DecodesEveryPacking) {
  for (const int64_t n : {0, 1, 3, 7}) {
    for (const int64_t k : {1, 7, 33, 63, 64, 65, 200, 1100}) {
      for (auto& [name, weight] : every_packing(n, k)) {
        for (const at::ScalarType rounded : {at::kFloat, at::kBFloat16, at::kHalf}) {
          weight.rounded = rounded;
          const std::string what = name + " rounded to " + c10::toString(rounded);
          std::vector<std::pair<int64_t, int64_t>> columns{{0, k}, {k / 2, k}, {k / 3, k - k / 4}, {k, k}};
          if (k > 64) columns.push_back({64, k}), columns.push_back({0, 64});
          for (const auto& [first, last] : columns) {
            expect_decoded<float>(weight, 0, n, first, last, what);
            expect_decoded<c10::BFloat16>(weight, n / 2, n, first, last, what);
            expect_decoded<double>(weight, 0, n - n / 2, first, last, what);
          }
        }
      }
    }
  }
}

// Work that is large enough for several threads; one row is cut into parts.
TEST(PackedWeight, DecodesTheSameOnSeveralThreads) {
  const int threads = at::get_num_threads();
  for (const auto& [n, k] : std::vector<std::pair<int64_t, int64_t>>{{1, 100003}, {2, 50001}, {301, 333}}) {
    for (const auto& [name, weight] : every_packing(n, k)) {
      at::set_num_threads(4);
      const at::Tensor several = at::empty({n, k}, at::kFloat), one = at::empty_like(several);
      ops::decode(weight, 0, n, 0, k, several);
      at::set_num_threads(1);
      ops::decode(weight, 0, n, 0, k, one);
      EXPECT_EQ(std::memcmp(several.const_data_ptr(), one.const_data_ptr(), one.nbytes()), 0) << name << ' ' << n;
      expect_decoded<float>(weight, n - 1, n, k - 300, k, name);
    }
  }
  at::set_num_threads(threads);
}

// A scale is a product and a sum, each rounded. One operation of both would give other numbers: here, mostly.
TEST(PackedWeight, RoundsNestedScalesTwice) {
  PackedWeight w;
  w.packing = kernels::Packing::table, w.rows = 100, w.columns = 64;
  w.codes = at::full({100 * 32}, 0xff, at::kByte);
  w.table = at::ones({16}, at::kFloat);
  w.nested_codes = random_bytes({100}, 21);
  w.nested_table = at::linspace(-1, 1, 256, at::kFloat);
  w.scale = at::full({1}, 0.7654321, at::kFloat);
  w.offset = 0.3333333f;
  const at::Tensor decoded = at::empty({100, 64}, at::kFloat);
  ops::decode(w, 0, 100, 0, 64, decoded);
  int others = 0;
  for (int64_t n = 0; n < 100; ++n) {
    const float code = static_cast<const float*>(w.nested_table.const_data_ptr())[w.nested_codes[n].item<uint8_t>()];
    others += std::fma(code, w.scale[0].item<float>(), w.offset) != Definition(w)(n, 0);
    EXPECT_EQ(decoded[n][0].item<float>(), Definition(w)(n, 0)) << n;
  }
  EXPECT_GT(others, 10);
}

TEST(PackedWeight, RefusesWhatDoesNotFit) {
  const PackedWeight w = ops::plain_weight(at::zeros({3, 5}));
  EXPECT_EQ(w.bytes(), 60);
  EXPECT_THROW(ops::decode(w, 0, 4, 0, 5, at::empty({4, 5})), std::invalid_argument);
  EXPECT_THROW(ops::decode(w, 0, 3, 0, 6, at::empty({3, 6})), std::invalid_argument);
  EXPECT_THROW(ops::decode(w, 0, 3, 0, 5, at::empty({3, 4})), std::invalid_argument);
  EXPECT_THROW(ops::decode(w, 0, 3, 0, 5, at::empty({5, 3}).t()), std::invalid_argument);
  EXPECT_THROW(ops::decode(w, 0, 3, 0, 5, at::empty({3, 5}, at::kLong)), std::invalid_argument);
  EXPECT_THROW(ops::plain_weight(at::zeros({3, 5}).t()), std::invalid_argument);
  EXPECT_THROW(ops::plain_weight(at::zeros({3, 5}, at::kDouble)), std::invalid_argument);
}

// The matrices that bitsandbytes was given: "spread" over some magnitudes; small integers, and halves, whose codes are
// ties. The third row of more is zero.
at::Tensor numbers(const std::string& kind, at::ScalarType dtype, int64_t n, int64_t k) {
  const at::Tensor x = at::empty({n, k}, at::kFloat);
  auto* values = static_cast<float*>(x.data_ptr());
  for (int64_t i = 0; i < n * k; ++i) {
    const uint32_t h = mixed(static_cast<uint32_t>(i));
    if (kind == "spread")
      values[i] =
          std::ldexp(static_cast<float>(static_cast<int32_t>(h >> 8) - (1 << 23)), -23 - static_cast<int>(h & 7));
    else if (kind == "twelfths")
      values[i] = static_cast<float>(static_cast<int32_t>(h % 25) - 12);
    else
      values[i] = static_cast<float>(static_cast<int32_t>(h % 509) - 254) / 2;
  }
  if (n > 3) x[2].zero_();
  return x.to(dtype);
}
// FNV-1a of its bytes.
uint64_t checksum(const at::Tensor& x) {
  uint64_t h = 0xcbf29ce484222325;
  const auto* bytes = static_cast<const uint8_t*>(x.const_data_ptr());
  for (size_t i = 0; i < x.nbytes(); ++i) h = (h ^ bytes[i]) * 0x100000001b3;
  return h;
}
at::Tensor decoded(const PackedWeight& w) {
  const at::Tensor x = at::empty({w.rows, w.columns}, at::kFloat);
  ops::decode(w, 0, w.rows, 0, w.columns, x);
  return x + 0.0;  // a zero has no sign: fp4 has two codes for it, of which bitsandbytes decodes one to -0
}

struct Golden {
  const char* kind;
  Quantization type;
  at::ScalarType dtype;
  int64_t rows, columns;
  uint64_t codes, scale, values;  // values: as quantize_4bit's state says, in the matrix' dtype; fp32 for int8
};

// bitsandbytes.functional: quantize_4bit, int8_vectorwise_quant of float16, and what they dequantise to.
TEST(PackedWeight, QuantizesAsBitsandbytes) {
  const Golden goldens[] = {
      {"spread", Quantization::nf4, at::kFloat, 3, 7, 0xa3d82f89c60f1beb, 0x4b72477f9c5c2f98, 0x029e027e0463e309},
      {"spread", Quantization::fp4, at::kFloat, 3, 7, 0x1780465092636efa, 0x4b72477f9c5c2f98, 0x7ecf7b6806e9b13e},
      {"spread", Quantization::int8, at::kFloat, 3, 7, 0x7c67d3aed262bb53, 0x11c76583efb20597, 0x173c585fb2535958},
      {"spread", Quantization::nf4, at::kBFloat16, 3, 7, 0xa3d82f89c60f1beb, 0x4b72477f9c5c2f98, 0x85b3ca7e3a25e533},
      {"spread", Quantization::fp4, at::kBFloat16, 3, 7, 0x1780465092636efa, 0x4b72477f9c5c2f98, 0x918f8b82b6165f32},
      {"spread", Quantization::int8, at::kBFloat16, 3, 7, 0x7c67d3aed262bb53, 0xb34b618f5efb6d57, 0xfe5dee4e18658ab0},
      {"spread", Quantization::nf4, at::kHalf, 3, 7, 0xa3d82f89c60f1beb, 0x4b72477f9c5c2f98, 0xf4e2d031f6a33238},
      {"spread", Quantization::fp4, at::kHalf, 3, 7, 0x1780465092636efa, 0x4b72477f9c5c2f98, 0x39a66ff5a2bd0cdd},
      {"spread", Quantization::int8, at::kHalf, 3, 7, 0x7c67d3aed262bb53, 0x11c76583efb20597, 0x173c585fb2535958},
      {"spread", Quantization::nf4, at::kFloat, 5, 64, 0x23d39356f684fb20, 0x1383d553c2ecd4f3, 0x96e4d53d7cb7ae8c},
      {"spread", Quantization::fp4, at::kFloat, 5, 64, 0x0ed30fa7314a66dd, 0x1383d553c2ecd4f3, 0xb3902617cd1cbb2d},
      {"spread", Quantization::int8, at::kFloat, 5, 64, 0xe918368585936410, 0x981dca43bf406b42, 0x2e125a99a92677d7},
      {"spread", Quantization::nf4, at::kBFloat16, 5, 64, 0x23d39356f684fb20, 0x9a5fd3663a2ce350, 0x0df97db6781d324f},
      {"spread", Quantization::fp4, at::kBFloat16, 5, 64, 0x0ed30fa7314a66dd, 0x9a5fd3663a2ce350, 0x422c2192ed775ccc},
      {"spread", Quantization::int8, at::kBFloat16, 5, 64, 0xfba19aa3eebadd04, 0x9a5fd3663a2ce350, 0x88cc0f3061935198},
      {"spread", Quantization::nf4, at::kHalf, 5, 64, 0x23d39356f684fb20, 0x981dca43bf406b42, 0xacda3fc49ce137c1},
      {"spread", Quantization::fp4, at::kHalf, 5, 64, 0x0ed30fa7314a66dd, 0x981dca43bf406b42, 0xfdc02533ba7b440a},
      {"spread", Quantization::int8, at::kHalf, 5, 64, 0xe918368585936410, 0x981dca43bf406b42, 0x2e125a99a92677d7},
      {"spread", Quantization::nf4, at::kFloat, 8, 200, 0x99933c52dc86a441, 0x3845ae01dd394f49, 0x0cbf24ac3df232d7},
      {"spread", Quantization::fp4, at::kFloat, 8, 200, 0x29c18f92d787e34c, 0x3845ae01dd394f49, 0x842b0ff6b6a6ec4c},
      {"spread", Quantization::int8, at::kFloat, 8, 200, 0x432daef23524e305, 0xfaf1dbbbe9a1db29, 0x01cc4fc6e2a69048},
      {"spread", Quantization::nf4, at::kBFloat16, 8, 200, 0xf38d379c9b65ad7a, 0x4749f4f8c4691a07, 0x839c89c5bd0eee2e},
      {"spread", Quantization::fp4, at::kBFloat16, 8, 200, 0x77ca0fa22e9d525c, 0x4749f4f8c4691a07, 0x59695b2739bbe270},
      {"spread", Quantization::int8, at::kBFloat16, 8, 200, 0x86e8c235148a4f4f, 0x699507949038484e, 0xfed7a7a3432f8b06},
      {"spread", Quantization::nf4, at::kHalf, 8, 200, 0xd8db88595dcf4756, 0x128e495d6ef95a3e, 0x2c1eea4311a5037f},
      {"spread", Quantization::fp4, at::kHalf, 8, 200, 0x29c18f92d787e34c, 0x128e495d6ef95a3e, 0x1df8e4e259270349},
      {"spread", Quantization::int8, at::kHalf, 8, 200, 0x432daef23524e305, 0xfaf1dbbbe9a1db29, 0x01cc4fc6e2a69048},
      {"spread", Quantization::nf4, at::kFloat, 40, 1100, 0x51de42b465bcdfb8, 0x3adaed4d6fde173c, 0x55c807d64c7d2fa7},
      {"spread", Quantization::fp4, at::kFloat, 40, 1100, 0x13d5c1e2964af260, 0x3adaed4d6fde173c, 0x2935502ba4eba103},
      {"spread", Quantization::int8, at::kFloat, 40, 1100, 0x9e10b2bf5ad92e4e, 0x53396152586db82e, 0x06752f40fcd72ba0},
      {"spread", Quantization::nf4, at::kBFloat16, 40, 1100, 0xf9bc248280ec6684, 0xd15239a5ab51c80e,
       0x72f66c40558fbd2e},
      {"spread", Quantization::fp4, at::kBFloat16, 40, 1100, 0x88b783879ee81434, 0xd15239a5ab51c80e,
       0x75edefe410d5a3a7},
      {"spread", Quantization::int8, at::kBFloat16, 40, 1100, 0x45e17cbe358f1443, 0xfac1b8bf6036cf5c,
       0xb60fee6aa7685ea5},
      {"spread", Quantization::nf4, at::kHalf, 40, 1100, 0x198584aee2772ae3, 0xae6206b019b941f9, 0x021fccdda28b480e},
      {"spread", Quantization::fp4, at::kHalf, 40, 1100, 0xbbc978d210b1de12, 0xae6206b019b941f9, 0xe9d4160f886f37b9},
      {"spread", Quantization::int8, at::kHalf, 40, 1100, 0x9e10b2bf5ad92e4e, 0x53396152586db82e, 0x06752f40fcd72ba0},
      {"twelfths", Quantization::nf4, at::kFloat, 40, 1100, 0xa92702fdefdfdde1, 0x20be0063766b6f95, 0x687860d9d3accc66},
      {"twelfths", Quantization::fp4, at::kFloat, 40, 1100, 0x0f7bf903638bf189, 0x20be0063766b6f95, 0xa208bb7e09c63358},
      {"twelfths", Quantization::int8, at::kFloat, 40, 1100, 0xd6b9d843381786d2, 0x3560c9acca7f6062,
       0x1f54f592bfcf110d},
      {"halves", Quantization::nf4, at::kFloat, 40, 1100, 0x1fcfe2dcb276d409, 0x7d43d77c20bf5459, 0x343a393aa698b4ca},
      {"halves", Quantization::fp4, at::kFloat, 40, 1100, 0x804b24f549c5e9e7, 0x7d43d77c20bf5459, 0x916f409f9095a037},
      {"halves", Quantization::int8, at::kFloat, 40, 1100, 0xed2aa90d38b8a8c7, 0x076a09a0d40eb7a1, 0xec0c234df6821418},
  };
  for (const Golden& g : goldens) {
    const PackedWeight w = ops::quantize(numbers(g.kind, g.dtype, g.rows, g.columns), g.type);
    const std::string what = std::string(g.kind) + " type " + std::to_string(static_cast<int>(g.type)) + ' ' +
                             c10::toString(g.dtype) + ' ' + std::to_string(g.rows) + " x " + std::to_string(g.columns);
    EXPECT_EQ(checksum(w.codes), g.codes) << what;
    EXPECT_EQ(checksum(w.scale), g.scale) << what;
    EXPECT_EQ(checksum(g.type == Quantization::int8 ? decoded(w) : decoded(w).to(g.dtype)), g.values) << what;
  }
}

TEST(PackedWeight, NestsScalesAsBitsandbytes) {
  struct {
    Quantization type;
    int64_t rows, columns;
    float offset;  // that bitsandbytes found on one thread
    uint64_t codes, scale, values;
  } const goldens[] = {
      {Quantization::nf4, 40, 1100, 0x1.b72b4ep-1f, 0xa982a144db138a2a, 0x3fa24ecc649410d8, 0xdcf42202d886c8c5},
      {Quantization::fp4, 8, 200, 0x1.a38542p-1f, 0x38abf86749a720a2, 0xe63d4698df06fc3a, 0x44877532ab3193cc},
  };
  for (const auto& g : goldens) {
    PackedWeight w = ops::quantize(numbers("spread", at::kFloat, g.rows, g.columns), g.type), ours = w;
    ops::nest_scales(w, g.offset);
    EXPECT_EQ(checksum(w.nested_codes), g.codes);
    EXPECT_EQ(checksum(w.scale), g.scale);
    EXPECT_EQ(checksum(decoded(w)), g.values);
    EXPECT_EQ(checksum(w.nested_table), 0xd677f22a96665bc4);  // create_dynamic_map
    // Our own offset is good to a unit in its last place.
    ops::nest_scales(ours);
    EXPECT_NEAR(ours.offset, g.offset, g.offset * 0x1p-22f);
    EXPECT_THROW(ops::nest_scales(ours), std::invalid_argument);
  }
  // Scales that are all the mean: a block of zeros has the first code.
  PackedWeight same = ops::quantize(at::ones({4, 64}), Quantization::nf4);
  ops::nest_scales(same);
  EXPECT_EQ(same.nested_codes.max().item<int>(), 0);
  EXPECT_EQ(same.scale.max().item<float>(), 0);
  EXPECT_TRUE(decoded(same).equal(at::ones({4, 64})));
}

// No code is nearer than the one that is taken: half the largest gap of the code book, or half a step, in units of the
// scale. Rounding of the quotient and of the product adds some units in the last place.
TEST(PackedWeight, QuantizesToTheNearestCode) {
  const at::Tensor x = numbers("spread", at::kFloat, 37, 1100);
  for (const Quantization type : {Quantization::nf4, Quantization::fp4}) {
    const PackedWeight w = ops::quantize(x, type);
    const at::Tensor
        book = w.table.to(at::kDouble),
        scaled = (x.flatten() / w.scale.repeat_interleave(64).narrow(0, 0, x.numel())).nan_to_num().to(at::kDouble);
    const at::Tensor nearest = (scaled.unsqueeze(1) - book).abs().amin(1);
    const at::Tensor error =
        (decoded(w).flatten().to(at::kDouble) / w.scale.repeat_interleave(64).narrow(0, 0, x.numel())).nan_to_num() -
        scaled;
    EXPECT_LE((error.abs() - nearest).max().item<double>(), 4 * 0x1p-23);
  }
  const PackedWeight int8 = ops::quantize(x.to(at::kHalf), Quantization::int8);
  EXPECT_LE(
      ((decoded(int8) - x.to(at::kHalf).to(at::kFloat)).abs() / (int8.scale / 127)).nan_to_num().max().item<float>(),
      0.5 + 127 * 0x1p-22);
  // E4M3: four bits of a number, and steps of 2^-9 below 2^-6.
  const PackedWeight fp8 = ops::quantize(x, Quantization::fp8);
  const at::Tensor quotient = x / fp8.scale;
  const at::Tensor step = at::exp2(quotient.abs().log2().floor().clamp_min(-6) - 3);
  EXPECT_LE((fp8.codes.to(at::kFloat) - quotient).abs().div(step).max().item<float>(), 0.5);
  EXPECT_TRUE(fp8.codes.view(at::kByte).equal(quotient.clamp(-448, 448).to(at::kFloat8_e4m3fn).view(at::kByte)));
  EXPECT_TRUE(fp8.scale.flatten().narrow(0, 3, 34).equal(x.narrow(0, 3, 34).abs().amax(1) / 448));
  EXPECT_EQ(fp8.scale[2].item<float>(), 1);  // of a row of zeros
  EXPECT_EQ(decoded(fp8)[2].abs().max().item<float>(), 0);
  // Every code is kept.
  const at::Tensor codes = at::arange(256).to(at::kByte).view(at::kFloat8_e4m3fn).to(at::kFloat).view({1, 256}).clone();
  codes.masked_fill_(codes.isnan(), 448);
  EXPECT_TRUE(decoded(ops::quantize(codes, Quantization::fp8)).equal(codes));
  // A row below what a scale can be.
  const at::Tensor tiny = at::full({1, 3}, 1e-44, at::kFloat);
  EXPECT_TRUE(decoded(ops::quantize(tiny, Quantization::fp8)).isfinite().all().item<bool>());
}

TEST(PackedWeight, QuantizesTheSameOnSeveralThreads) {
  const int threads = at::get_num_threads();
  const at::Tensor x = numbers("spread", at::kBFloat16, 301, 333);
  for (const Quantization type : {Quantization::nf4, Quantization::fp4, Quantization::int8, Quantization::fp8}) {
    std::vector<PackedWeight> made;
    for (const int count : {1, 2, 5}) {
      at::set_num_threads(count);
      PackedWeight& w = made.emplace_back(ops::quantize(x, type));
      if (w.packing == kernels::Packing::table) ops::nest_scales(w);
      EXPECT_EQ(checksum(w.codes), checksum(made[0].codes)) << count;
      EXPECT_EQ(checksum(w.scale), checksum(made[0].scale)) << count;
      EXPECT_EQ(w.offset, made[0].offset) << count;
    }
  }
  at::set_num_threads(threads);
}

TEST(PackedWeight, RefusesToQuantizeWhatIsNotFinite) {
  for (const Quantization type : {Quantization::nf4, Quantization::fp4, Quantization::int8, Quantization::fp8}) {
    for (const float value : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
        const at::Tensor x = at::ones({70, 90}, dtype);
        x[69][3] = value;
        EXPECT_THROW(ops::quantize(x, type), std::invalid_argument);
      }
    }
    EXPECT_EQ(ops::quantize(at::ones({0, 5}), type).bytes(),
              type == Quantization::nf4 || type == Quantization::fp4 ? 64 : 0);
  }
  EXPECT_THROW(ops::quantize(at::full({2, 2}, 65520.0f), Quantization::int8), std::invalid_argument);
  EXPECT_THROW(ops::quantize(at::ones({2, 2}, at::kDouble), Quantization::nf4), std::invalid_argument);
}

}  // namespace
}  // namespace rankfold
