// generate MODEL QUESTION...: answers to all questions, decoded together. The first is printed as it is made.
#include <rankfold/rankfold.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: generate MODEL QUESTION...\n";
    return 2;
  }
  try {
    const auto model = rankfold::CausalLM::load(argv[1], {.device = "cpu"});
    std::vector<std::vector<int32_t>> prompts;
    for (int i = 2; i < argc; ++i)
      prompts.push_back(rankfold::encode_prompt(model.tokenizer(), "{question}\n", argv[i]));

    // A conversation goes through a chat template: the folder's own, or a built-in one.
    const auto chat = rankfold::ChatTemplate::open(model.tokenizer(), {.chat_template = "vicuna"});
    prompts.push_back(chat.encode(R"([{"role": "user", "content": "Is 37.5 °C a fever?"}])"));

    rankfold::GenerateConfig config{.max_new_tokens = 32, .temperature = 0.8, .top_p = 0.95, .seed = 7};
    config.stop_token_ids = chat.stop_token_ids();  // besides eos
    const auto completions = rankfold::complete(model, prompts, config, [](const rankfold::TokenEvent& event) {
      if (event.completion == 0) std::cout << event.text << std::flush;
      return rankfold::Reply::kGoOn;  // kEndRow would end this answer, kEndAll all of them
    });
    std::cout << "\n";
    for (const rankfold::Completion& made : completions)
      std::cout << "answer " << made.prompt << ", " << made.ids.size() << " tokens, " << rankfold::word_of(made.reason)
                << ": " << made.text << "\n";
    return 0;
  } catch (const rankfold::Error& error) {
    std::cerr << "generate: " << error.what() << "\n";
    return static_cast<int>(error.code());
  }
}
