// Damage to files, drawn from a seed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace rankfold::fuzz {

class Random {  // splitmix64
 public:
  explicit Random(uint64_t state) : state_(state) {}
  uint64_t next();
  uint64_t below(uint64_t limit) { return next() % limit; }
  bool one_in(uint64_t n) { return below(n) == 0; }

 private:
  uint64_t state_;
};

// One of these contents of a file with one to four changes. What frames others is kept whole two times in three, so that a
// change reaches what lies behind the check of lengths: a safetensors header gets its length, and in a tokenizer.model a
// field of protobuf, the message around it, and so on.
std::string mutant(Random& random, const std::vector<std::string>& contents, const std::string& file_name);

}  // namespace rankfold::fuzz
