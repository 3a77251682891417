// Regular expressions for module names. PEFT matches these with Python's `re`; only syntax that PCRE2 reads the same
// way is accepted, so that PEFT finds the same modules. Supported: groups, (?i: ), look-aheads, classes, \d \w \s \b,
// lazy repeats. Not supported: back references, look-behinds, global flags.
// Expressions are untrusted, so time and memory are limited.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

struct pcre2_real_code_8;

namespace rankfold {

class Regex {
 public:
  // CPU time that all expressions of one setting may use together. A model's modules need about a hundredth of it.
  struct Patience {
    std::chrono::nanoseconds left = std::chrono::milliseconds(200);  // CPU time of this thread
  };

  // Throws UserError for a bad pattern or one that is too large. The message names `key`, the setting.
  Regex(std::string key, std::string_view pattern, std::shared_ptr<Patience> patience = std::make_shared<Patience>());

  // Both throw UserError when the match takes too long, or the name is longer than a module name can be.
  bool match(std::string_view name) const;            // the whole name, as re.fullmatch
  bool match_after_dot(std::string_view name) const;  // the whole name, or everything after one of its dots

 private:
  bool match_from(std::string_view name, size_t begin) const;

  std::string key_, pattern_;
  std::shared_ptr<Patience> patience_;
  std::shared_ptr<pcre2_real_code_8> code_;
};

}  // namespace rankfold
