// evaluate MODEL ADAPTER DATA.json: loss and perplexity of an adapter on rows of a file, and a metric of your own: the
// share of rows that the model answers word for word.
#include <rankfold/rankfold.h>

#include <algorithm>
#include <iostream>

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: evaluate MODEL ADAPTER DATA.json\n";
    return 2;
  }
  try {
    const auto model = rankfold::CausalLM::load(argv[1], {.device = "cpu"});
    const auto adapter = rankfold::Adapter::load(model, argv[2]);  // active from now on
    const auto data = rankfold::Dataset::open(argv[3], &model.tokenizer(), {}, model.config().vocab_size);

    const rankfold::EvalResult result = rankfold::evaluate(model, data, /*rows_per_batch=*/8);
    std::cout << "loss " << result.loss << "  perplexity " << result.perplexity << "  labels " << result.tokens << "\n";

    // The labels say where a row's answer begins: the tokens before it are the prompt.
    std::vector<std::vector<int32_t>> prompts;
    std::vector<std::string> answers;
    for (int64_t i = 0; i < data.size(); ++i) {
      const rankfold::Example row = data[i];
      const auto first = std::find_if(row.labels.begin(), row.labels.end(),
                                      [](int32_t label) { return label != rankfold::kIgnoreIndex; });
      const auto length = first - row.labels.begin();
      prompts.emplace_back(row.input_ids.begin(), row.input_ids.begin() + length);
      answers.push_back(model.tokenizer().decode({row.input_ids.begin() + length, row.input_ids.end()}));
    }
    const auto completions = rankfold::complete(model, prompts, {.max_new_tokens = 64});
    const auto right = std::count_if(completions.begin(), completions.end(), [&](const rankfold::Completion& made) {
      return made.text == answers.at(static_cast<size_t>(made.prompt));
    });
    std::cout << right << " of " << prompts.size() << " answers are word for word\n";
    return 0;
  } catch (const rankfold::Error& error) {
    std::cerr << "evaluate: " << error.what() << "\n";
    return static_cast<int>(error.code());
  }
}
