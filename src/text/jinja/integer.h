// Integers of any size, with Python's division and powers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold::jinja {

class Integer {
 public:
  Integer(int64_t value = 0);                                         // NOLINT: mixes with int64_t everywhere
  static Integer parse(std::string_view digits, unsigned base = 10);  // ASCII digits with or without a minus
  static Integer truncate(double value);                              // finite

  std::optional<int64_t> small() const;  // where it fits
  double to_double() const;              // rounded as Python does, infinite beyond
  std::string to_string(unsigned base = 10) const;
  size_t bits() const;
  bool is_zero() const { return limbs_.empty(); }
  bool is_negative() const { return negative_; }
  bool is_odd() const { return !limbs_.empty() && limbs_[0] % 2 == 1; }

  Integer operator-() const;
  Integer operator+(const Integer& other) const;
  Integer operator-(const Integer& other) const { return *this + -other; }
  Integer operator*(const Integer& other) const;
  // Rounds down; the rest has the sign of the divisor, which is not zero.
  static void divide(const Integer& dividend, const Integer& divisor, Integer& quotient, Integer& rest);
  static Integer power(Integer base, uint64_t exponent);

  int compare(const Integer& other) const;
  bool operator==(const Integer& other) const = default;

 private:
  void trim();
  static int compare_size(const Integer& a, const Integer& b);
  uint32_t divide_small(uint32_t divisor);  // in place, returns the rest
  std::vector<uint32_t> limbs_;             // lowest first, no zero at the end
  bool negative_ = false;
};

}  // namespace rankfold::jinja
