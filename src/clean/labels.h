// What the words beside a number say of it: "order no. 6222...", "身份证号：...", "tel138...".
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace rankfold {

class Labels {
 public:
  // `text` must outlive it. `label` is read as if it stood before the text.
  Labels(const std::u32string& text, std::string_view label) : text_(text), label_(label) {}

  // Of a number that begins here:
  bool is_joined(size_t begin) const;  // the letters right before it are a word such as "tel"
  bool names_id(size_t begin) const;   // an ID number is spoken of shortly before
  bool names_another_number(
      size_t begin) const;             // the word before it is that of an order, a batch, a serial number ...
  bool is_amount(size_t begin) const;  // a currency stands before it
  // Of a number that ends here: a unit follows.
  bool is_unit(size_t end) const;

 private:
  std::string before(size_t begin, size_t characters) const;  // UTF-8, in lower case
  std::string after(size_t end, size_t characters) const;

  const std::u32string& text_;
  std::string_view label_;
};

}  // namespace rankfold
