#include "text/jinja/integer.h"

#include "text/jinja/meter.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <utility>

namespace rankfold::jinja {
namespace {

constexpr size_t kMostLimbs = 2048;  // 65,536 bits: some 19,700 digits

void check_size(size_t limbs) {
  if (limbs > kMostLimbs) throw Raised("an integer takes more than " + std::to_string(kMostLimbs * 32) + " bits");
}

}  // namespace

Integer::Integer(int64_t value) : negative_(value < 0) {
  for (auto rest = value < 0 ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value); rest != 0; rest >>= 32)
    limbs_.push_back(static_cast<uint32_t>(rest));
}

void Integer::trim() {
  while (!limbs_.empty() && limbs_.back() == 0) limbs_.pop_back();
  if (limbs_.empty()) negative_ = false;
}

Integer Integer::parse(std::string_view digits, unsigned base) {
  Integer value;
  const bool negative = digits.starts_with('-');
  if (negative) digits.remove_prefix(1);
  check_size(digits.size() / 8);
  spend(digits.size() * digits.size() / 256);
  for (const char c : digits) {
    uint64_t carry = static_cast<uint64_t>(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    for (uint32_t& limb : value.limbs_) {
      carry += uint64_t{limb} * base;
      limb = static_cast<uint32_t>(carry);
      carry >>= 32;
    }
    if (carry != 0) value.limbs_.push_back(static_cast<uint32_t>(carry));
  }
  check_size(value.limbs_.size());
  value.negative_ = negative;
  value.trim();
  return value;
}

Integer Integer::truncate(double value) {
  int exponent;
  const double fraction = std::frexp(std::fabs(value), &exponent);
  if (exponent <= 63) return Integer(static_cast<int64_t>(value));
  Integer whole(static_cast<int64_t>(std::ldexp(fraction, 53)));
  whole = whole * power(2, static_cast<uint64_t>(exponent - 53));
  whole.negative_ = value < 0;
  return whole;
}

std::optional<int64_t> Integer::small() const {
  if (limbs_.size() > 2) return std::nullopt;
  uint64_t size = 0;
  for (size_t k = limbs_.size(); k-- > 0;) size = size << 32 | limbs_[k];
  const uint64_t most = uint64_t{1} << 63;
  if (size > most || (size == most && !negative_)) return std::nullopt;
  return static_cast<int64_t>(negative_ ? 0 - size : size);
}

double Integer::to_double() const { return std::strtod(to_string().c_str(), nullptr); }

uint32_t Integer::divide_small(uint32_t divisor) {
  uint64_t rest = 0;
  for (size_t k = limbs_.size(); k-- > 0;) {
    rest = rest << 32 | limbs_[k];
    limbs_[k] = static_cast<uint32_t>(rest / divisor);
    rest %= divisor;
  }
  trim();
  return static_cast<uint32_t>(rest);
}

std::string Integer::to_string(unsigned base) const {
  if (is_zero()) return "0";
  spend(limbs_.size() * limbs_.size());
  std::string digits;
  Integer rest = *this;
  rest.negative_ = false;
  // Nine digits at a time in base ten; the others are powers of two, where one division is as good.
  const uint32_t chunk = base == 10 ? 1'000'000'000 : base;
  while (!rest.is_zero()) {
    uint32_t part = rest.divide_small(chunk);
    for (uint32_t weight = chunk; weight > 1 && !(rest.is_zero() && part == 0); weight /= base, part /= base)
      digits += "0123456789abcdef"[part % base];
  }
  if (negative_) digits += '-';
  std::reverse(digits.begin(), digits.end());
  return digits;
}

size_t Integer::bits() const {
  return limbs_.empty() ? 0 : 32 * limbs_.size() - static_cast<size_t>(std::countl_zero(limbs_.back()));
}

int Integer::compare_size(const Integer& a, const Integer& b) {
  if (a.limbs_.size() != b.limbs_.size()) return a.limbs_.size() < b.limbs_.size() ? -1 : 1;
  for (size_t k = a.limbs_.size(); k-- > 0;)
    if (a.limbs_[k] != b.limbs_[k]) return a.limbs_[k] < b.limbs_[k] ? -1 : 1;
  return 0;
}

int Integer::compare(const Integer& other) const {
  if (negative_ != other.negative_) return negative_ ? -1 : 1;
  const int size = compare_size(*this, other);
  return negative_ ? -size : size;
}

Integer Integer::operator-() const {
  Integer result = *this;
  result.negative_ = !negative_ && !is_zero();
  return result;
}

Integer Integer::operator+(const Integer& other) const {
  const bool adds = negative_ == other.negative_;
  const bool is_larger = compare_size(*this, other) >= 0;
  const Integer& large = is_larger ? *this : other;
  const Integer& little = is_larger ? other : *this;
  Integer result = large;
  int64_t carry = 0;
  for (size_t k = 0; k < result.limbs_.size(); ++k) {
    const int64_t part = k < little.limbs_.size() ? int64_t{little.limbs_[k]} : 0;
    const int64_t sum = int64_t{result.limbs_[k]} + (adds ? part : -part) + carry;
    result.limbs_[k] = static_cast<uint32_t>(sum);
    carry = sum >> 32;
  }
  if (carry > 0) result.limbs_.push_back(static_cast<uint32_t>(carry));
  check_size(result.limbs_.size());
  result.trim();
  return result;
}

Integer Integer::operator*(const Integer& other) const {
  check_size(limbs_.size() + other.limbs_.size() - (is_zero() || other.is_zero() ? 0 : 1));
  spend(limbs_.size() * other.limbs_.size() / 8);
  Integer result;
  result.limbs_.resize(limbs_.size() + other.limbs_.size());
  for (size_t i = 0; i < limbs_.size(); ++i) {
    uint64_t carry = 0;
    for (size_t k = 0; k < other.limbs_.size(); ++k) {
      carry += uint64_t{limbs_[i]} * other.limbs_[k] + result.limbs_[i + k];
      result.limbs_[i + k] = static_cast<uint32_t>(carry);
      carry >>= 32;
    }
    result.limbs_[i + other.limbs_.size()] = static_cast<uint32_t>(carry);
  }
  result.negative_ = negative_ != other.negative_;
  result.trim();
  return result;
}

void Integer::divide(const Integer& dividend, const Integer& divisor, Integer& quotient, Integer& rest) {
  quotient = rest = Integer();
  if (divisor.limbs_.size() == 1) {
    quotient = dividend;
    rest = Integer(quotient.divide_small(divisor.limbs_[0]));
  } else {  // bit by bit: rare, and bounded by the size
    spend(dividend.limbs_.size() * divisor.limbs_.size() * 8);
    quotient.limbs_.resize(dividend.limbs_.size());
    Integer size = divisor;
    size.negative_ = false;
    for (size_t bit = dividend.bits(); bit-- > 0;) {
      uint32_t carry = dividend.limbs_[bit / 32] >> (bit % 32) & 1;
      for (uint32_t& limb : rest.limbs_) carry = std::exchange(limb, limb << 1 | carry) >> 31;
      if (carry != 0) rest.limbs_.push_back(carry);
      if (compare_size(rest, size) < 0) continue;
      rest = rest - size;
      quotient.limbs_[bit / 32] |= 1u << (bit % 32);
    }
  }
  quotient.negative_ = dividend.negative_ != divisor.negative_;
  rest.negative_ = dividend.negative_;
  quotient.trim();
  rest.trim();
  if (!rest.is_zero() && dividend.negative_ != divisor.negative_) {
    quotient = quotient - 1;
    rest = rest + divisor;
  }
}

Integer Integer::power(Integer base, uint64_t exponent) {
  if (base.bits() > 1) check_size(exponent > kMostLimbs * 32 ? kMostLimbs + 1 : (base.bits() - 1) * exponent / 32);
  Integer result = 1;
  while (true) {
    if (exponent % 2 == 1) result = result * base;
    exponent /= 2;
    if (exponent == 0) return result;
    base = base * base;
  }
}

}  // namespace rankfold::jinja
