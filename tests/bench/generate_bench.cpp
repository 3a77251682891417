// rankfold-generate-bench MODEL ROWS.json BATCH_SIZE DTYPE: how long it takes to make completions of given lengths.
// ROWS.json: [{"input_ids": [...], "new_tokens": N}, ...]. Reads a line from standard input, makes all completions,
// prints {"seconds", "tokens"} as a line, and so on until the input ends: whoever measures beside it takes turns.
#include "rankfold/rankfold.h"

#include "core/process.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

namespace rankfold {
namespace {

void measure(const std::string& folder, const std::string& rows_file, int64_t batch_size, const std::string& dtype) {
  const CausalLM model = CausalLM::load(folder, {.device = "cpu", .dtype = dtype});
  std::ifstream file(rows_file);
  std::vector<std::vector<int32_t>> prompts;
  std::vector<int64_t> wanted;
  GenerateConfig config{.max_new_tokens = 1, .batch_size = batch_size};
  for (const auto& row : nlohmann::json::parse(file)) {
    prompts.push_back(row.at("input_ids").get<std::vector<int32_t>>());
    wanted.push_back(row.at("new_tokens").get<int64_t>());
    config.max_new_tokens = std::max(config.max_new_tokens, wanted.back());
  }
  for (std::string line; std::getline(std::cin, line);) {
    std::vector<int64_t> made(prompts.size(), 0);
    const auto begin = std::chrono::steady_clock::now();
    complete(model, prompts, config, [&](const TokenEvent& event) {
      const auto row = static_cast<size_t>(event.completion);
      return ++made[row] == wanted[row] ? Reply::kEndRow : Reply::kGoOn;
    });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    int64_t tokens = 0;
    for (const int64_t count : made) tokens += count;
    std::cout << nlohmann::json{{"seconds", seconds}, {"tokens", tokens}}.dump() << std::endl;
  }
}

}  // namespace
}  // namespace rankfold

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: rankfold-generate-bench MODEL ROWS.json BATCH_SIZE DTYPE\n");
    return 2;
  }
  rankfold::set_up_memory(/*keep_pages=*/true);  // as the programs do
  try {
    rankfold::measure(argv[1], argv[2], std::stoll(argv[3]), argv[4]);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rankfold-generate-bench: %s\n", error.what());
    return 1;
  }
}
