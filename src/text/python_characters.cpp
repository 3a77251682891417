#include "text/python_characters.h"

#include <array>
#include <unordered_map>

namespace rankfold::python {
namespace {

class Cases {
 public:
  using Characters = std::array<uint32_t, 3>;  // 0 ends it

  static const Cases& get() {
    static const Cases cases;
    return cases;
  }

  Characters change(uint32_t c, Case to) const {
    if (const Characters* found = find(c, to)) return *found;
    // The tables have the title and folded forms that are not the upper and lower ones.
    const Characters* const usual = to == Case::kTitle  ? find(c, Case::kUpper)
                                    : to == Case::kFold ? find(c, Case::kLower)
                                                        : nullptr;
    return usual == nullptr ? Characters{c} : *usual;
  }

 private:
  Cases() {
    for (size_t i = 0; i < unicode::kCaseShiftCount; ++i) {
      const uint32_t *row = unicode::kCaseShifts + 5 * i, last = row[2], step = row[3], distance = row[4];
      for (uint32_t c = row[1]; c <= last; c += step) of_[row[0]][c] = {c + distance};
    }
    for (size_t i = 0; i < unicode::kLongerCaseCount; ++i) {
      const uint32_t* row = unicode::kLongerCases + 5 * i;
      of_[row[0]][row[1]] = {row[2], row[3], row[4]};
    }
  }

  const Characters* find(uint32_t c, Case to) const {
    const auto& of_case = of_[static_cast<size_t>(to)];
    const auto found = of_case.find(c);
    return found == of_case.end() ? nullptr : &found->second;
  }

  std::unordered_map<uint32_t, Characters> of_[4];
};

}  // namespace

void append_cased(uint32_t c, Case to, std::string& text) {
  const Cases::Characters changed = Cases::get().change(c, to);
  unicode::append(changed[0], text);
  for (size_t k = 1; k < changed.size() && changed[k] != 0; ++k) unicode::append(changed[k], text);
}

}  // namespace rankfold::python
