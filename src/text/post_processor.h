// The ids to put before and after a text: tokenizer.json's "post_processor".
#pragma once

#include "text/json_node.h"

#include <cstdint>
#include <vector>

namespace rankfold {

struct BeforeAndAfter {
  std::vector<int32_t> before, after;

  // Supports ByteLevel, TemplateProcessing, Sequence and null. Throws UserError for others, and for ids of `size` or
  // more.
  static BeforeAndAfter of(const JsonNode& node, int32_t size);
};

}  // namespace rankfold
