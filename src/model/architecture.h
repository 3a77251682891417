// What differs between the model families that we know; adding one is a row in architecture.cpp.
#pragma once

#include "rankfold/causal_lm.h"

#include <string>
#include <vector>

namespace rankfold {

// How the tensors of a model are named: model/tensor_list.h.
struct Architecture {
  const char* name;              // architectures[0] in config.json
  const char* model_type;        // as transformers names the family
  std::vector<std::string> qkv;  // modules below model.layers.N, whose outputs side by side are queries, keys, values
  const char* o;
  const char* gate;
  const char* up;
  const char* down;
  bool bos_by_default;  // does the tokenizer put bos in front where the folder does not say
};

// The row with this name; UserError "SOURCE: architectures: ..." lists the names that there are.
const Architecture& find_architecture(const std::string& name, const std::string& source = "config.json");

// The name that stands for a model_type where config.json names no class; empty where the type does not decide it.
std::string architecture_of_type(const std::string& model_type);

}  // namespace rankfold
