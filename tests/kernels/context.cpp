#include "kernels/context.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <utility>

namespace rankfold::kernels::testing {
namespace {

// NaN in every floating type, negative in integers, and nothing that a kernel computes; different, so that a copy from
// the gap between an input's rows to the gap between an output's rows is seen.
constexpr uint16_t kGap = 0xffe3;
constexpr uint16_t kCanary = 0xffd5;
constexpr size_t kGuard = 64;  // bytes of canaries on either side of an output

struct Format {
  int fraction_bits, least_exponent;  // of normal numbers
  double largest;
};
Format format_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::bf16:
      return {7, -126, 0x1.fep127};
    case Dtype::f16:
      return {10, -14, 65504};
    case Dtype::f32:
      break;
  }
  return {23, -126, std::numeric_limits<float>::max()};
}

uint64_t seed_of(const std::string& name) {  // FNV-1a: the same everywhere, unlike std::hash
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

// The distance of the worst element; NaN where an element is NaN.
double worst(const Numbers& ours, const Numbers& exact) {
  double worst = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    const double error = std::abs(ours[i] - exact[i]);
    if (!(error <= worst)) worst = error;
    if (std::isnan(worst)) break;
  }
  return worst;
}

double dot(const Numbers& a, const Numbers& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

double bias(const Numbers& ours, const Numbers& exact) { return std::abs(dot(ours, exact) / dot(exact, exact) - 1); }

template <class... Arguments>
std::string format(const char* form, Arguments... arguments) {
  char line[256];
  std::snprintf(line, sizeof line, form, arguments...);
  return line;
}

}  // namespace

double epsilon(Dtype dtype) { return std::ldexp(1, -format_of(dtype).fraction_bits); }

double rounded(double x, Dtype dtype) {
  if (!std::isfinite(x) || x == 0) return x;
  const Format f = format_of(dtype);
  const int exponent = std::max(std::ilogb(x), f.least_exponent);
  const double unit = std::ldexp(1, exponent - f.fraction_bits), result = std::nearbyint(x / unit) * unit;
  return std::abs(result) > f.largest ? std::copysign(std::numeric_limits<double>::infinity(), x) : result;
}

uint32_t bits_of_number(double x, Dtype dtype) {
  if (dtype != Dtype::f16) {
    const auto bits = std::bit_cast<uint32_t>(static_cast<float>(x));
    return dtype == Dtype::f32 ? bits : bits >> 16;
  }
  const uint32_t sign = std::signbit(x) ? 0x8000 : 0;
  if (std::isnan(x)) return sign | 0x7e00;
  if (std::isinf(x)) return sign | 0x7c00;
  const double size = std::abs(x);
  if (size < 0x1p-14) return sign | static_cast<uint32_t>(size * 0x1p24);
  const int exponent = std::ilogb(size);
  return sign | static_cast<uint32_t>(exponent + 15) << 10 |
         (static_cast<uint32_t>(std::ldexp(size, 10 - exponent)) & 0x3ff);
}

double number_of_bits(uint32_t bits, Dtype dtype) {
  if (dtype != Dtype::f16) return std::bit_cast<float>(dtype == Dtype::f32 ? bits : bits << 16);
  const int exponent = static_cast<int>(bits >> 10 & 31), fraction = static_cast<int>(bits & 0x3ff);
  double size = exponent == 0 ? fraction * 0x1p-24 : std::ldexp(1024 + fraction, exponent - 25);
  if (exponent == 31) size = fraction == 0 ? std::numeric_limits<double>::infinity() : std::nan("");
  return bits & 0x8000 ? -size : size;
}

const char* name_of(Dtype dtype) { return dtype == Dtype::f32 ? "f32" : dtype == Dtype::bf16 ? "bf16" : "f16"; }

// ---- Matrix

Matrix::Matrix(Buffer* buffer, Dtype dtype, const Shape& shape, size_t begin)
    : buffer_(buffer), dtype_(dtype), shape_(shape), begin_(begin) {}

Matrix Matrix::columns(int64_t begin, int64_t count) const {
  Matrix part = *this;
  part.begin_ += static_cast<size_t>(begin * size_of(dtype_));
  part.shape_.cols = count;
  return part;
}

void* Matrix::data() const { return buffer_ ? static_cast<std::byte*>(buffer_->data) + begin_ : nullptr; }

size_t Matrix::at(int64_t row, int64_t col) const {
  return begin_ + static_cast<size_t>((row * shape_.ld + col) * size_of(dtype_));
}

void Matrix::set(std::vector<std::byte>& bytes, int64_t row, int64_t col, uint32_t bits) const {
  std::memcpy(&bytes[at(row, col)], &bits, static_cast<size_t>(size_of(dtype_)));
}

double Matrix::operator()(int64_t row, int64_t col) const {
  uint32_t bits = 0;
  std::memcpy(&bits, &buffer_->after[at(row, col)], static_cast<size_t>(size_of(dtype_)));
  return number_of_bits(bits, dtype_);
}

Numbers Matrix::numbers() const {
  Numbers all;
  all.reserve(static_cast<size_t>(rows() * cols()));
  for (int64_t row = 0; row < rows(); ++row)
    for (int64_t col = 0; col < cols(); ++col) all.push_back((*this)(row, col));
  return all;
}

// ---- Context

Context::Context(Machine& machine, const Table& table, const std::string& case_name, bool checks)
    : machine_(machine), table_(table), checks_(checks), random_(seed_of(case_name)) {}

Context::~Context() {
  for (const auto& buffer : buffers_) machine_.release(buffer->data);
}

Numbers Context::normal(int64_t count, double deviation) {
  Numbers all(static_cast<size_t>(count));
  for (double& x : all) {  // of twelve uniform numbers: the same on every C++ library
    x = -6;
    for (int i = 0; i < 12; ++i) x += static_cast<double>(random_() >> 11) * 0x1p-53;
    x *= deviation;
  }
  return all;
}

int64_t Context::integer(int64_t begin, int64_t end) {
  return begin + static_cast<int64_t>(random_() % static_cast<uint64_t>(end - begin));
}

Buffer* Context::add(size_t bytes, size_t guard, uint16_t fill) {
  auto buffer = std::make_unique<Buffer>();
  const size_t all = guard + bytes + guard;
  buffer->before.resize(all);
  for (size_t i = 0; i < all; ++i) buffer->before[i] = static_cast<std::byte>(i % 2 == 0 ? fill & 0xff : fill >> 8);
  buffer->may_change.resize(all);
  buffer->data = machine_.allocate(all);
  return buffers_.emplace_back(std::move(buffer)).get();
}

void Context::upload(const Buffer& buffer) {
  if (!buffer.before.empty()) machine_.upload(buffer.data, buffer.before.data(), buffer.before.size());
}

Matrix Context::add(Dtype dtype, Shape shape, const Numbers* numbers, bool is_output) {
  if (shape.ld == 0) shape.ld = shape.cols + shape.zeros;
  const int64_t width = shape.cols + shape.zeros;
  const int64_t elements = shape.rows > 0 ? (shape.rows - 1) * shape.ld + width : 0;
  const size_t guard = is_output ? kGuard : 0;
  Buffer* buffer =
      add(static_cast<size_t>((shape.offset + elements) * size_of(dtype)), guard, is_output ? kCanary : kGap);
  const Matrix matrix(buffer, dtype, shape, guard + static_cast<size_t>(shape.offset * size_of(dtype)));
  for (int64_t row = 0; row < shape.rows; ++row) {
    for (int64_t col = 0; col < width; ++col) {
      if (numbers) {
        const double x = col < shape.cols ? rounded((*numbers)[static_cast<size_t>(row * shape.cols + col)], dtype) : 0;
        matrix.set(buffer->before, row, col, bits_of_number(x, dtype));
      }
      const size_t at = matrix.at(row, col);
      for (size_t i = 0; i < static_cast<size_t>(size_of(dtype)); ++i) buffer->may_change[at + i] = is_output;
    }
  }
  buffer->after = buffer->before;
  upload(*buffer);
  return matrix;
}

Matrix Context::input(Dtype dtype, Shape shape, const Numbers& numbers) { return add(dtype, shape, &numbers, false); }
Matrix Context::output(Dtype dtype, Shape shape) { return add(dtype, shape, nullptr, true); }
Matrix Context::in_out(Dtype dtype, Shape shape, const Numbers& numbers) { return add(dtype, shape, &numbers, true); }

void* Context::array(const void* values, size_t bytes) {
  Buffer* buffer = add(bytes, 0, kGap);
  if (bytes > 0) std::memcpy(buffer->before.data(), values, bytes);
  upload(*buffer);
  return buffer->data;
}

void* Context::memory(size_t bytes) {
  Buffer* buffer = add(bytes, kGuard, kCanary);
  std::fill_n(buffer->may_change.begin() + kGuard, bytes, true);
  upload(*buffer);
  return static_cast<std::byte*>(buffer->data) + kGuard;
}

void Context::run(const std::function<void()>& work) {
  work();
  machine_.synchronize();
  bytes_.clear();
  for (size_t b = 0; b < buffers_.size(); ++b) {
    Buffer& buffer = *buffers_[b];
    buffer.after.resize(buffer.before.size());
    if (!buffer.after.empty()) machine_.download(buffer.after.data(), buffer.data, buffer.after.size());
    for (size_t i = 0; i < buffer.after.size(); ++i) {
      if (buffer.may_change[i]) {
        bytes_.push_back(buffer.after[i]);
      } else if (buffer.after[i] != buffer.before[i]) {
        failures_.push_back(
            format("buffer %zu, in the order made: byte %zu of %zu was written", b, i, buffer.after.size()));
        break;
      }
    }
  }
}

void Context::expect(bool holds, const std::string& what) {
  if (!holds) failures_.push_back(what);
}

void Context::expect_close(const std::string& what, const Numbers& ours, const Numbers& exact, const Numbers& plain,
                           Dtype dtype, Close close) {
  if (ours.size() != exact.size() || plain.size() != exact.size()) {
    failures_.push_back(what + ": sizes of the result and the references differ");
    return;
  }
  if (exact.empty()) return;
  const auto count = static_cast<double>(exact.size()), terms = static_cast<double>(close.terms);
  double largest = 0;
  for (const double x : exact) largest = std::max(largest, std::abs(x));
  const double eps = epsilon(dtype), coarse = std::max(eps, epsilon(close.on_the_way));
  const double rms = std::sqrt(dot(exact, exact) / count), plain_error = worst(plain, exact);
  // A float32 product is three tf32 products, good to 2^-22, where plain fp32 is good to 2^-24.
  const double factor = dtype == Dtype::f32 ? 4 : 2;
  double limit = std::max(factor * plain_error, 4 * eps * largest);
  if (close.terms > 1) limit = std::min(limit, 8 * coarse * rms * std::sqrt(terms));
  // Tensor cores cut a sum off where plain fp32, and their twins on the CPU, round it: seen on an H200 as 1.2 times that.
  if (dtype == Dtype::f32) limit *= 1.5;
  const double error = worst(ours, exact);
  if (!(error <= limit) || !(limit >= 0)) {
    size_t where = 0;
    while (where + 1 < exact.size() && std::abs(ours[where] - exact[where]) <= limit) ++where;
    failures_.push_back(what +
                        format(": error %.3g, limit %.3g (plain %.3g, largest %.3g); element %zu of %zu is %.9g, "
                               "exactly %.9g",
                               error, limit, plain_error, largest, where, exact.size(), ours[where], exact[where]));
  }
  if (rms == 0) return;
  // Tensor cores cut off what does not fit when they add: eight terms at a time, always towards zero.
  const double noise = std::max(4 * coarse / std::sqrt(count), epsilon(Dtype::f32) * std::max(4.0, terms / 8));
  const double scale_limit = std::max(2 * bias(plain, exact), noise), scale_error = bias(ours, exact);
  if (!(scale_error <= scale_limit))
    failures_.push_back(what + format(": scale bias %.3g, limit %.3g", scale_error, scale_limit));
}

void Context::expect_close(const std::string& what, const Matrix& ours, const Numbers& exact, const Numbers& plain,
                           Close close) {
  expect_close(what, ours.numbers(), exact, plain, ours.dtype(), close);
}

}  // namespace rankfold::kernels::testing
