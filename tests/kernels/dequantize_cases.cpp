// dequantize.h: every bit of the definition in packed.h.
#include <cmath>
#include <cstdio>

#include "kernels/cases.h"

namespace rankfold::kernels::testing {
namespace {

struct Problem {
  std::string name;
  int64_t n = 0, k = 0;
  int64_t begin = 0, end = 0;     // rows
  int64_t offset = 0, extra = 0;  // elements of out: before its first one, and between its rows
  int64_t shift = 0;              // of the codes, in bytes (plain: in elements)
  Dtype rounded = Dtype::f32;
  int64_t block = 64, nested_block = 0;  // table; 0: not nested
  int64_t scale_rows = 1, scale_columns = 1;
  int64_t bits = 4;        // grouped
  bool is_listed = false;  // grouped: with a list of groups
  double scale = 0.05;     // of the scales
};

std::vector<float> floats(const Numbers& numbers) { return {numbers.begin(), numbers.end()}; }

// Products and sums of two floats, exact in double or rounded once there without harm, rounded to fp32.
double product(double a, double b) { return rounded(a * b, Dtype::f32); }
double sum(double a, double b) { return rounded(a + b, Dtype::f32); }

double e4m3(uint8_t bits) {
  const int exponent = bits >> 3 & 15, fraction = bits & 7;
  double size = exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
  if (exponent == 15 && fraction == 7) size = std::nan("");
  return bits & 0x80 ? -size : size;
}

// The weight on the machine, and its elements before they are rounded.
struct Made {
  Packed packed;
  Numbers value;
};

class Maker {
 public:
  Maker(Context& c, const Problem& p) : c_(c), p_(p), size_(p.n * p.k), made_{{}, Numbers(static_cast<size_t>(size_))} {
    made_.packed.rounded = p.rounded;
    made_.packed.n = p.n, made_.packed.k = p.k;
  }

  Made plain(Dtype stored) {
    const Matrix codes = c_.input(stored, {p_.n, p_.k, 0, 0, p_.shift}, c_.normal(size_));
    made_.packed.packing = Packing::plain;
    made_.packed.stored = stored;
    made_.packed.codes = codes.data();
    made_.value = codes.numbers();
    return made_;
  }

  Made table() {
    Packed& w = made_.packed;
    w.packing = Packing::table;
    const std::vector<uint8_t> codes = bytes((size_ + 1) / 2);
    std::vector<float> table = floats(c_.normal(16));
    table[0] = -1, table[7] = 0, table[15] = 1;
    w.codes = shifted(codes);
    w.table = c_.array(table);
    w.block = p_.block;
    const int64_t blocks = ceil_div(size_, w.block);
    std::vector<float> scale =
        floats(c_.normal(p_.nested_block ? ceil_div(blocks, p_.nested_block) : blocks, p_.scale));
    std::vector<uint8_t> nested_codes;
    std::vector<float> nested_table;
    if (p_.nested_block) {
      nested_codes = bytes(blocks), nested_table = floats(c_.normal(256));
      w.nested_codes = c_.array(nested_codes), w.nested_table = c_.array(nested_table);
      w.nested_block = p_.nested_block;
      w.offset = static_cast<float>(p_.scale);
    }
    w.scale = c_.array(scale);
    for (int64_t i = 0; i < size_; ++i) {
      const uint8_t byte = at(codes, i / 2);
      const int64_t b = i / w.block;
      const double of_block = p_.nested_block ? sum(product(at(nested_table, at(nested_codes, b)),  //
                                                            at(scale, b / p_.nested_block)),
                                                    w.offset)
                                              : at(scale, b);
      value(i) = product(at(table, i % 2 == 0 ? byte >> 4 : byte & 15), of_block);
    }
    return made_;
  }

  Made int8() {
    const std::vector<uint8_t> codes = bytes(size_);
    const std::vector<float> scale = scales();
    made_.packed.packing = Packing::int8;
    made_.packed.codes = shifted(codes);
    for (int64_t i = 0; i < size_; ++i)
      value(i) = product(product(static_cast<int8_t>(at(codes, i)), at(scale, scale_of(i))), kInt8Unit);
    return made_;
  }

  Made fp8() {
    const std::vector<uint8_t> codes = bytes(size_);
    const std::vector<float> scale = scales();
    made_.packed.packing = Packing::fp8;
    made_.packed.codes = shifted(codes);
    for (int64_t i = 0; i < size_; ++i) value(i) = product(e4m3(at(codes, i)), at(scale, scale_of(i)));
    return made_;
  }

  Made grouped() {
    Packed& w = made_.packed;
    w.packing = Packing::grouped;
    w.bits = static_cast<int32_t>(p_.bits);
    w.ld_codes = round_up(ceil_div(p_.k * p_.bits, 8), 8) + (p_.shift > 0 ? 1 : 8);
    const std::vector<uint8_t> codes = bytes(p_.n * w.ld_codes);
    const std::vector<float> scale = scales();
    std::vector<uint8_t> zero;
    for (size_t i = 0; i < scale.size(); ++i)
      zero.push_back(static_cast<uint8_t>(c_.integer(0, p_.bits == 4 ? 17 : 256)));
    w.codes = shifted(codes);
    w.zero = c_.array(zero);
    if (p_.is_listed) {
      for (int64_t k = 0; k < p_.k; ++k) groups_.push_back(static_cast<int32_t>(c_.integer(0, w.ld_scale)));
      w.group_of = c_.array(groups_);
    }
    for (int64_t i = 0; i < size_; ++i) {
      const int64_t n = i / p_.k, k = i % p_.k;
      const uint8_t byte = at(codes, n * w.ld_codes + k * p_.bits / 8);
      const int code = p_.bits == 8 ? byte : k % 2 == 0 ? byte & 15 : byte >> 4;
      value(i) = product(code - at(zero, scale_of(i)), at(scale, scale_of(i)));
    }
    return made_;
  }

 private:
  template <class T>
  static T at(const std::vector<T>& values, int64_t i) {
    return values[static_cast<size_t>(i)];
  }
  double& value(int64_t i) { return made_.value[static_cast<size_t>(i)]; }

  std::vector<uint8_t> bytes(int64_t count) {
    std::vector<uint8_t> all(static_cast<size_t>(count));
    for (uint8_t& byte : all) byte = static_cast<uint8_t>(c_.integer(0, 256));
    return all;
  }
  const uint8_t* shifted(std::vector<uint8_t> codes) {
    codes.insert(codes.begin(), static_cast<size_t>(p_.shift), 0xa5);
    return c_.array(codes) + p_.shift;
  }
  std::vector<float> scales() {
    Packed& w = made_.packed;
    w.scale_rows = p_.scale_rows, w.scale_columns = p_.scale_columns;
    w.ld_scale = p_.scale_columns == 0 ? 1 : ceil_div(p_.k, p_.scale_columns);
    std::vector<float> scale = floats(c_.normal(ceil_div(p_.n, w.scale_rows) * w.ld_scale, p_.scale));
    w.scale = c_.array(scale);
    return scale;
  }
  int64_t scale_of(int64_t i) const {
    const int64_t n = i / p_.k, k = i % p_.k;
    const int64_t group = p_.is_listed ? at(groups_, k) : p_.scale_columns == 0 ? 0 : k / p_.scale_columns;
    return n / p_.scale_rows * made_.packed.ld_scale + group;
  }

  Context& c_;
  const Problem& p_;
  int64_t size_;
  Made made_;
  std::vector<int32_t> groups_;
};

bool same(double a, double b) { return a == b ? std::signbit(a) == std::signbit(b) : std::isnan(a) && std::isnan(b); }

template <class Make>
void run(Context& c, Dtype dtype, const Problem& p, const Make& make) {
  Maker maker(c, p);
  const Made made = make(maker);
  const Matrix out = c.output(dtype, {p.end - p.begin, p.k, p.k + p.extra, 0, p.offset});
  c.run([&] {
    c.table().dequantize(
        {.weight = made.packed, .dtype = dtype, .begin = p.begin, .end = p.end, .out = out.data(), .ld_out = out.ld()},
        c.stream());
  });
  for (int64_t i = 0; i < out.rows(); ++i) {
    for (int64_t k = 0; k < p.k; ++k) {
      const double value = made.value[static_cast<size_t>((p.begin + i) * p.k + k)];
      const double exact = rounded(rounded(value, p.rounded), dtype);
      if (same(out(i, k), exact)) continue;
      char line[128];
      std::snprintf(line, sizeof line, "row %lld, column %lld: %a, by the definition %a",
                    static_cast<long long>(p.begin + i), static_cast<long long>(k), out(i, k), exact);
      return c.expect(false, line);
    }
  }
}

}  // namespace

std::vector<Case> dequantize_cases() {
  std::vector<Case> cases;
  const auto add = [&](const std::string& packing, Dtype dtype, Problem p, auto make) {
    if (p.end == 0) p.end = p.n;
    cases.push_back({"dequantize", "dequantize_" + packing + "_" + p.name + "_to_" + name_of(dtype),
                     [=](Context& c) { run(c, dtype, p, make); }});
  };
  // Whole blocks and more than one of them each way; rows that begin within a byte and within a block; parts of a
  // matrix; results and codes at addresses that are no multiple of an access.
  const std::vector<Problem> shapes = {{.name = "n9_k264", .n = 9, .k = 264},
                                       {.name = "rows_pitched", .n = 21, .k = 520, .begin = 5, .end = 18, .extra = 8},
                                       {.name = "rows_odd", .n = 7, .k = 37, .begin = 3, .end = 6, .extra = 3},
                                       {.name = "k1", .n = 19, .k = 1},
                                       {.name = "out_at_odd", .n = 3, .k = 64, .offset = 1},
                                       {.name = "pitch_odd", .n = 3, .k = 64, .extra = 1},
                                       {.name = "codes_at_odd", .n = 3, .k = 72, .shift = 1},
                                       {.name = "no_rows", .n = 5, .k = 64, .begin = 5, .end = 5}};
  const auto with = [](const Problem& shape, const std::string& name, auto change) {
    Problem p = shape;
    p.name += name.empty() ? "" : "_" + name;
    change(p);
    return p;
  };
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16}) {
    const auto add_plain = [&](Dtype stored, const Problem& p) {
      add(std::string("plain_") + name_of(stored), dtype, p, [=](Maker& maker) { return maker.plain(stored); });
    };
    const auto add_table = [&](const Problem& p) {
      add("table", dtype, p, [](Maker& maker) { return maker.table(); });
    };
    const auto add_int8 = [&](const Problem& p) { add("int8", dtype, p, [](Maker& maker) { return maker.int8(); }); };
    const auto add_fp8 = [&](const Problem& p) { add("fp8", dtype, p, [](Maker& maker) { return maker.fp8(); }); };
    const auto add_grouped = [&](const Problem& p) {
      add("grouped", dtype, p, [](Maker& maker) { return maker.grouped(); });
    };
    for (const Problem& shape : shapes) {
      for (const Dtype stored : {Dtype::f32, Dtype::bf16, Dtype::f16}) add_plain(stored, shape);
      add_table(shape);
      add_table(with(shape, "nested", [](Problem& p) { p.nested_block = 2; }));
      const auto by_row = [](Problem& p) { p.scale_columns = p.k; };
      add_int8(with(shape, "", by_row));
      add_fp8(with(shape, "", by_row));
      add_fp8(with(shape, "blocks", [](Problem& p) { p.scale_rows = 4, p.scale_columns = 16; }));
      for (const int64_t bits : {4, 8}) {
        const auto grouped = [=](Problem& p) { p.bits = bits, p.scale_columns = 32; };
        add_grouped(with(shape, "bits" + std::to_string(bits), grouped));
        add_grouped(with(shape, "bits" + std::to_string(bits) + "_listed", [=](Problem& p) {
          grouped(p);
          p.is_listed = true;
        }));
      }
    }
    // Blocks and groups that no eight neighbours share, and such as reach over the whole matrix.
    const Problem& all = shapes[0];
    add_table(with(all, "block24", [](Problem& p) { p.block = 24; }));
    add_table(with(all, "block4", [](Problem& p) { p.block = 4, p.nested_block = 256; }));
    add_table(with(all, "block4096", [](Problem& p) { p.block = 4096, p.nested_block = 256; }));
    add_table(with(all, "nested3", [](Problem& p) { p.nested_block = 3; }));
    add_int8(with(all, "columns12", [](Problem& p) { p.scale_columns = 12; }));
    add_fp8(with(all, "one_scale", [](Problem& p) { p.scale_rows = p.n, p.scale_columns = p.k; }));
    add_grouped(with(all, "columns12", [](Problem& p) { p.scale_columns = 12; }));
    for (const Problem& shape : {shapes[0], shapes[2]}) {
      const auto one_group = [](Problem& p) { p.scale_columns = 0; };
      add_int8(with(shape, "one_group", one_group)), add_grouped(with(shape, "one_group", one_group));
    }
    // Through 16 bits first, and numbers beyond what those hold: infinity, subnormals and zero.
    for (const Dtype rounded : {Dtype::bf16, Dtype::f16}) {
      for (const double scale : {0.05, 1e-7, 1e5}) {
        const std::string name = std::string("through_") + name_of(rounded) +
                                 (scale < 1e-3 ? "_small"
                                  : scale > 1  ? "_large"
                                               : "");
        const Problem p = with(all, name, [=](Problem& q) {
          q.rounded = rounded, q.scale = scale;
          q.scale_columns = 8;
        });
        add_table(p), add_int8(p), add_fp8(p), add_grouped(p);
        if (scale == 0.05) add_plain(Dtype::f32, p);
        add_fp8(with(p, "odd", [](Problem& q) { q.k = 37; }));
      }
    }
    // Numbers that fp32 itself holds as subnormals.
    add_table(with(all, "tiny", [](Problem& p) { p.scale = 1e-40; }));
    add_fp8(with(all, "tiny", [](Problem& p) { p.scale = 1e-40, p.scale_columns = 8; }));
  }
  return cases;
}

}  // namespace rankfold::kernels::testing
