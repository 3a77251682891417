// Regular expressions for names of modules, which PEFT matches with Python's `re`. What is accepted is what PCRE2 reads as
// Python does, so that PEFT finds the same modules: groups, (?i: ), look-aheads, classes, \d \w \s \b, lazy repeats; no
// back references, look-behinds or flags for the whole. A stranger's expression costs a bounded time and memory.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

struct pcre2_real_code_8;

namespace rankfold {

class Regex {
 public:
  // What all expressions of one setting may take together: a model's modules take a hundredth of it.
  struct Patience {
    std::chrono::nanoseconds left = std::chrono::milliseconds(200);  // of this thread's time
  };

  // Throws UserError, which names `key`, where the pattern stands, if it is not one or is too large.
  Regex(std::string key, std::string_view pattern, std::shared_ptr<Patience> patience = std::make_shared<Patience>());

  // Throw UserError where that takes too long or the name is longer than a module's.
  bool match(std::string_view name) const;            // the whole name, as re.fullmatch
  bool match_after_dot(std::string_view name) const;  // the whole, or all that follows one of its dots

 private:
  bool match_from(std::string_view name, size_t begin) const;

  std::string key_, pattern_;
  std::shared_ptr<Patience> patience_;
  std::shared_ptr<pcre2_real_code_8> code_;
};

}  // namespace rankfold
