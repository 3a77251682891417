// rankfold-encode TOKENIZER.json: reads texts as JSON lines, prints of each a line {"file": {"ids", "ranges"},
// "user": the same of a text that a person wrote, "text": decoded, "shown": decoded with its control tokens}.
// rankfold-encode TOKENIZER.json --time THREADS: reads all texts, prints the seconds to encode them, and how many
// tokens.
#include "rankfold/error.h"
#include "text/tokenizer_json.h"

#include <nlohmann/json.hpp>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace rankfold;
using nlohmann::json;

// Positions in characters, as PyPI's tokenizers counts; -1 for one within a character.
json shown(std::string_view text, const Tokens& tokens) {
  std::vector<int> characters(text.size() + 1, -1);
  int count = 0;
  for (size_t i = 0; i < text.size(); ++i)
    if ((text[i] & 0xC0) != 0x80) characters[i] = count++;
  characters[text.size()] = count;
  json ranges = json::array();
  for (const TextRange& range : tokens.ranges) ranges.push_back({characters.at(range.begin), characters.at(range.end)});
  return {{"ids", tokens.ids}, {"ranges", std::move(ranges)}};
}

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void time_texts(const Vocabulary& vocabulary, const std::vector<std::string>& texts, int threads) {
  std::atomic<size_t> next = 0, count = 0;
  const double begin = seconds();
  std::vector<std::jthread> workers;
  for (int i = 0; i < threads; ++i)
    workers.emplace_back([&] {
      constexpr size_t kChunk = 16;
      Tokens tokens;
      size_t mine = 0;
      for (size_t first; (first = next.fetch_add(kChunk)) < texts.size();)
        for (size_t k = first; k < std::min(first + kChunk, texts.size()); ++k) {
          vocabulary.encode(texts[k], Spelling::kUserText, tokens);
          mine += tokens.ids.size();
        }
      count += mine;
    });
  workers.clear();
  std::printf("{\"seconds\": %.4f, \"tokens\": %zu}\n", seconds() - begin, count.load());
}

}  // namespace

int main(int argc, char** argv) try {
  const double begin = seconds();
  const auto vocabulary = read_tokenizer_json(argv[1]);
  std::fprintf(stderr, "read in %.3f s\n", seconds() - begin);
  std::vector<std::string> texts;
  for (std::string line; std::getline(std::cin, line);) texts.push_back(json::parse(line));
  if (argc > 3) {
    time_texts(*vocabulary, texts, std::stoi(argv[3]));
    return 0;
  }
  for (const std::string& text : texts) {
    const Tokens file = vocabulary->encode(text, Spelling::kAsFile),
                 user = vocabulary->encode(text, Spelling::kUserText);
    const json line = {{"file", shown(text, file)},
                       {"user", shown(text, user)},
                       {"text", vocabulary->decode(file.ids)},
                       {"shown", vocabulary->decode(file.ids, Controls::kShown)}};
    std::cout << line.dump() << "\n";
  }
  return 0;
} catch (const rankfold::Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return static_cast<int>(error.code());
}
