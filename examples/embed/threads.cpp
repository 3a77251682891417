// threads MODEL QUESTION...: one model, asked from several threads. Each tokenises by itself; a mutex lets one of them
// compute at a time; a flag ends the work.
#include <rankfold/rankfold.h>

#include <atomic>
#include <iostream>
#include <mutex>
#include <thread>

class Answerer {
 public:
  explicit Answerer(const std::string& folder) : model_(rankfold::CausalLM::load(folder, {.device = "cpu"})) {}

  // From any thread. Throws rankfold::Stopped after stop().
  std::string answer(const std::string& question) {
    const auto prompt = rankfold::encode_prompt(model_.tokenizer(), "{question}\n", question);
    const std::lock_guard lock(mutex_);  // loss, logits, complete, evaluate, backward: one at a time for a model
    return rankfold::complete(model_, {prompt}, {.max_new_tokens = 16}, {}, stop_).at(0).text;
  }
  void stop() { stopped_ = true; }

 private:
  const rankfold::CausalLM model_;
  std::mutex mutex_;
  std::atomic<bool> stopped_ = false;
  const rankfold::Stop stop_ = [this] { return stopped_.load(); };  // asked before every token
};

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: threads MODEL QUESTION...\n";
    return 2;
  }
  try {
    Answerer answerer(argv[1]);
    std::vector<std::string> answers(static_cast<size_t>(argc - 2));
    {
      std::vector<std::jthread> threads;
      for (size_t i = 0; i < answers.size(); ++i)
        threads.emplace_back([&, i] {
          try {
            answers[i] = answerer.answer(argv[i + 2]);
          } catch (const rankfold::Error& error) {  // an exception that leaves a thread ends the program
            answers[i] = error.what();
          }
        });
    }
    for (const std::string& answer : answers) std::cout << answer << "\n";
    answerer.stop();
    try {
      answerer.answer("one more");
    } catch (const rankfold::Stopped&) {
      std::cout << "stopped\n";
    }
    return 0;
  } catch (const rankfold::Error& error) {
    std::cerr << "threads: " << error.what() << "\n";
    return static_cast<int>(error.code());
  }
}
