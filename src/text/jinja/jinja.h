// Chat templates: Jinja as transformers' apply_chat_template renders it, in C++, within limits, and with the origin of
// every character.
//
// The same text as transformers 5 with Jinja2 3.1, where that renders, and an error where that raises, except that
//   - a generation block is found where its text is in the result, also when a macro, set or filter block made it;
//   - the date is the caller's;
//   - include, import, extends, block, autoescape and the filters wordwrap, striptags, urlize, xmlattr, pprint and
//     random are refused;
//   - `self` is undefined, and slices of literals that Python refuses are errors, where Jinja's compiler makes them
//     undefined.
// Templates cannot reach files, clocks or random numbers.
#pragma once

#include "rankfold/error.h"
#include "text/jinja/value.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace rankfold::jinja {

// What strftime_now sees. The default is a date that is plainly not today's.
struct DateTime {
  int year = 2000, month = 1, day = 1, hour = 0, minute = 0, second = 0, microsecond = 0;
};

struct Options {
  DateTime now;
  uint64_t most_steps = 20'000'000;  // an operation or some 32 bytes of text each: about a second
  uint64_t most_bytes = 256 << 20;   // that the template's values hold at once
  uint64_t most_output = 64 << 20;   // bytes of the result
  uint32_t deepest = 2000;           // expressions, statements and macros within each other
};

struct Rendered {
  struct Origin {
    size_t begin, end;  // bytes
    // That of the value that was printed, its digits, brackets and quotes with it; kTemplateOrigin for what the
    // template wrote, computed or put together.
    int32_t origin;
    bool operator==(const Origin&) const = default;
  };
  struct Range {
    size_t begin, end;  // bytes
    bool operator==(const Range&) const = default;
  };
  std::string text;
  std::vector<Origin> origins;     // all bytes, in order, neighbours differ
  std::vector<Range> generations;  // text of generation blocks that are not empty, in order
};

// A template that cannot be rendered with these values, or would not be by transformers.
class RenderError : public UserError {
 public:
  RenderError(const std::string& where, const std::string& reason, bool is_chosen);
  // Without the place, on one line. Where the template itself raised the error, what its author wrote.
  const std::string& reason() const { return reason_; }
  bool is_chosen_by_template() const { return is_chosen_; }

 private:
  std::string reason_;
  bool is_chosen_;
};

class Template {
 public:
  static constexpr size_t kLargest = 1 << 20;  // bytes: the tree takes some 250 times as much

  // Throws UserError "name:line: what was expected, what was found".
  static Template compile(std::string source, std::string name_for_errors);

  // Throws RenderError. Thread safe, also with the same values.
  Rendered render(const std::map<std::string, Value>& variables, const Options& options = {}) const;

 private:
  struct Tree;
  explicit Template(std::shared_ptr<const Tree> tree) : tree_(std::move(tree)) {}
  std::shared_ptr<const Tree> tree_;
};

}  // namespace rankfold::jinja
