// lora-generate: prompts from a file, and a conversation over pipes.
#include "cli/run_program.h"
#include "support/contains.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"
#include "support/tiny_tokenizer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <sstream>
#include <stdexcept>
#include <thread>
#include <utility>

namespace rankfold {
namespace {

using testing::Outcome;
using testing::run_program;

class Generating : public ::testing::Test {
 protected:
  Generating() {
    testing::write_tiny_model(folder_ / "model", {.vocabulary = testing::kPieces});
    testing::train_tokenizer(folder_ / "model");
    folder_.write("chat.jinja",
                  "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
                  "{% if add_generation_prompt %}<assistant>{% endif %}");
  }

  // `flags` is shell text; `input` is what comes from standard input.
  Outcome generate(const std::string& flags, const std::string& input = "") {
    folder_.write(".in", input);
    return run_program(folder_, "lora-generate --model_name_or_path model --max_new_tokens 6 " + flags, "", ".in");
  }
  std::string answer(const std::string& flags) {
    const Outcome said = generate(flags);
    EXPECT_EQ(said.code, 0) << said.err;
    return said.out.substr(0, said.out.size() - 1);
  }
  static std::vector<nlohmann::json> lines_of(const std::string& text) {
    std::vector<nlohmann::json> lines;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }
  void expect_refused(const std::string& flags, const std::string& part) {
    const Outcome said = generate(flags);
    EXPECT_EQ(said.code, 2) << flags;
    EXPECT_TRUE(said.out.empty()) << said.out;
    EXPECT_TRUE(testing::contains(said.err, "lora-generate: " + part));
  }

  testing::TempFolder folder_;
};

TEST_F(Generating, PromptsFromALinesFile) {
  folder_.write("prompts.txt", "What is aspirin?\r\n\n多喝水\nWhat");
  const Outcome said = generate("--prompts prompts.txt");
  ASSERT_EQ(said.code, 0) << said.err;
  const auto lines = lines_of(said.out);
  const std::vector<std::string> prompts{"What is aspirin?", "多喝水", "What"};
  ASSERT_EQ(lines.size(), prompts.size());
  for (size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i].at("prompt"), prompts[i]);
    EXPECT_EQ(lines[i].at("completion"), answer("--prompt '" + prompts[i] + "'"));
    EXPECT_EQ(lines[i].at("finish_reason"), lines[i].at("tokens") == 6 ? "length" : "stop");
  }
  EXPECT_TRUE(generate("--prompts prompts.txt --output all.jsonl").out.empty());
  EXPECT_EQ(testing::read_bytes(folder_ / "all.jsonl"), said.out);
}

TEST_F(Generating, PromptsFromRows) {
  folder_.write("messages.json", R"([{"role": "user", "content": "What is 2?"}])");
  folder_.write("prompts.jsonl", R"({"id": 7, "prompt": "What is 1?"})"
                                 "\n"
                                 R"({"messages": [{"role": "user", "content": "What is 2?"}], "note": "x"})");
  const std::string chat = "--chat_template chat.jinja --prompt_template '{question}' ";
  const Outcome said = generate(chat + "--prompts prompts.jsonl --log_probabilities true");
  ASSERT_EQ(said.code, 0) << said.err;
  const auto lines = lines_of(said.out);
  ASSERT_EQ(lines.size(), 2);
  EXPECT_EQ(lines[0].at("id"), 7);
  EXPECT_EQ(lines[0].at("completion"), answer("--prompt_template '{question}' --prompt 'What is 1?'"));
  EXPECT_EQ(lines[1].at("note"), "x");
  EXPECT_EQ(lines[1].at("completion"), answer("--chat_template chat.jinja --messages messages.json"));
  for (const auto& line : lines) {
    EXPECT_EQ(line.at("ids").size(), line.at("tokens"));
    EXPECT_EQ(line.at("pieces").size(), line.at("tokens"));
    EXPECT_EQ(line.at("log_probabilities").size(), line.at("tokens"));
    for (const double x : line.at("log_probabilities")) EXPECT_LT(x, 0);
  }
  const auto samples = lines_of(
      generate(chat + "--prompts prompts.jsonl --num_return_sequences 3 --temperature 2 --top_p 0.9 --min_p 0.01").out);
  ASSERT_EQ(samples.size(), 6);
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(samples[i].at("sample"), i % 3);
  EXPECT_NE(samples[0].at("completion"), samples[1].at("completion"));
}

TEST_F(Generating, AStopTextCutsTheAnswer) {
  const std::string whole = answer("--prompt 'What is' --temperature 2");
  ASSERT_GE(whole.size(), 4);
  size_t begin = whole.size() / 2;
  while ((whole[begin] & 0xC0) == 0x80) ++begin;
  folder_.write("stop.json", nlohmann::json::array({whole.substr(begin)}).dump());
  const std::string cut = answer("--prompt 'What is' --temperature 2 --stop \"$(cat stop.json)\"");
  EXPECT_EQ(cut, whole.substr(0, whole.find(whole.substr(begin))));
}

TEST_F(Generating, AConversationOverPipes) {
  const std::string chat = "--chat --chat_template chat.jinja ";
  const Outcome said = generate(chat, "What is 1?\n/help\nWhat is 2?\n/reset\nWhat is 1?\n/exit\nnot answered\n");
  ASSERT_EQ(said.code, 0) << said.err;
  EXPECT_TRUE(testing::contains(said.err, "/reset  forget what was said, but for --messages\n"));
  EXPECT_TRUE(testing::contains(said.err, "what was said is forgotten\n"));
  // What the model was told is what the messages would be.
  const auto of_messages = [&](const nlohmann::json& messages) {
    folder_.write("messages.json", messages.dump());
    return answer("--chat_template chat.jinja --messages messages.json");
  };
  nlohmann::json messages{{{"role", "user"}, {"content", "What is 1?"}}};
  const std::string first = of_messages(messages);
  messages.push_back({{"role", "assistant"}, {"content", first}});
  messages.push_back({{"role", "user"}, {"content", "What is 2?"}});
  const std::string second = of_messages(messages);
  EXPECT_EQ(said.out, first + "\n" + second + "\n" + first + "\n");

  folder_.write("messages.json", nlohmann::json{{{"role", "user"}, {"content", "What is 1?"}},
                                                {{"role", "assistant"}, {"content", first}}}
                                     .dump());
  EXPECT_EQ(generate(chat + "--messages messages.json", "What is 2?").out, second + "\n");
}

TEST_F(Generating, AConversationEndsWithTheModelsPositions) {
  nlohmann::json config = nlohmann::json::parse(testing::read_bytes(folder_ / "model/config.json"));
  config["max_position_embeddings"] = 60;
  folder_.write("model/config.json", config.dump());
  const std::string chat = "--chat --chat_template chat.jinja --max_new_tokens 1000 ";
  const Outcome said = generate(chat, "What is 1?\nWhat is 2?\n");
  EXPECT_EQ(said.code, 2);
  EXPECT_TRUE(testing::contains(said.err, "(length)\n"));
  EXPECT_TRUE(testing::contains(said.err, "tokens, the model takes 60: /reset begins a new one"));
  EXPECT_EQ(generate(chat, "What is 1?\n/reset\nWhat is 2?\n").code, 0);
}

TEST_F(Generating, AConversationEndsWhenNobodyReadsIt) {
  std::string questions;
  for (int i = 0; i < 20; ++i) questions += "What is " + std::to_string(i) + "?\n";
  const Outcome said = generate("--chat --chat_template chat.jinja <.in >/dev/full 2>.err #", questions);
  EXPECT_EQ(said.code, 5);
  const std::string end = "(cancelled)\nlora-generate: standard output could not be written\n";
  EXPECT_TRUE(said.err.ends_with(end)) << said.err;
  EXPECT_EQ(said.err.find("(cancelled)"), said.err.size() - end.size()) << "it went on: " << said.err;
}

TEST_F(Generating, AConversationWithoutAChatTemplate) {
  const Outcome said = generate("--chat --prompt_template 'Q: {question} A:'", "What is 1?\nWhat is 1?\n");
  ASSERT_EQ(said.code, 0) << said.err;
  EXPECT_TRUE(testing::contains(said.err, "no chat template: each question stands by itself\n"));
  const std::string alone = answer("--prompt_template 'Q: {question} A:' --prompt 'What is 1?'");
  EXPECT_EQ(said.out, alone + "\n" + alone + "\n");
  const Outcome bare = generate("--chat --temperature 0", "What is 1?\n");
  EXPECT_EQ(bare.code, 0) << bare.err;
  EXPECT_TRUE(testing::contains(bare.err, "has no chat template")) << "why there is none";
  const Outcome broken = generate("--chat", "\xFF\n");
  EXPECT_EQ(broken.code, 2);
  EXPECT_TRUE(testing::contains(broken.err, "lora-generate: standard input:1: not UTF-8"));
}

// A conversation whose standard error is a pipe without room: it stands still at the first line that it writes there,
// until it is heard. So an interrupt comes at one known moment.
class HeldConversation : public Generating {
 protected:
  HeldConversation() {
    if (::pipe2(input_, O_CLOEXEC) != 0 || ::pipe2(errors_, O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
    ::fcntl(errors_[1], F_SETFL, O_NONBLOCK);
    while (::write(errors_[1], "\n", 1) == 1) {
    }
    ::fcntl(errors_[1], F_SETFL, 0);
    child_ = ::fork();
    if (child_ == 0) {
      ::dup2(input_[0], STDIN_FILENO);
      ::dup2(::open("/dev/null", O_WRONLY), STDOUT_FILENO);
      ::dup2(errors_[1], STDERR_FILENO);
      ::signal(SIGINT, SIG_DFL);  // shells ignore it in what they run in the background
      if (::chdir(folder_.path().c_str()) != 0) ::_exit(127);
      ::execlp("env", "env", "RANKFOLD_SET_UP=1", "OMP_NUM_THREADS=1", RANKFOLD_BIN "/lora-generate", "--chat",
               "--model_name_or_path", "model", "--chat_template", "chat.jinja", "--max_new_tokens", "6", nullptr);
      ::_exit(127);
    }
    ::close(errors_[1]);
  }
  ~HeldConversation() override {
    if (child_ > 0) {
      ::kill(child_, SIGKILL);
      ::waitpid(child_, nullptr, 0);
    }
    for (const int end : {input_[0], input_[1], errors_[0]}) ::close(end);
  }

  void say(const std::string& line) {
    EXPECT_EQ(::write(input_[1], line.data(), line.size()), static_cast<ssize_t>(line.size()));
  }

  void interrupt() {
    wait_until_it_stands();
    ::kill(child_, SIGINT);
    wait_until_it_stands();
  }

  // Lets it go on, until it has written this to standard error.
  void expect_line(const std::string& line) {
    while (said_.find(line + "\n") == std::string::npos)
      ASSERT_TRUE(hear()) << "waits for '" << line << "' after " << said_;
  }

  // All that it has written to standard error when it has ended.
  std::string end() {
    ::close(std::exchange(input_[1], -1));
    while (hear()) {
    }
    int status = -1;
    ::waitpid(std::exchange(child_, -1), &status, 0);
    EXPECT_EQ(status, 0);
    return said_.substr(std::min(said_.find_first_not_of('\n'), said_.size()));
  }

 private:
  // All input read, no signal on its way, all threads asleep.
  bool stands() const {
    int unread = 0;
    if (::ioctl(input_[0], FIONREAD, &unread) != 0 || unread > 0) return false;
    for (const auto& thread : std::filesystem::directory_iterator("/proc/" + std::to_string(child_) + "/task")) {
      const std::string status = testing::read_bytes(thread.path() / "status");
      for (const char* part : {"\nState:\tS", "\nShdPnd:\t0000000000000000\n"})
        if (status.find(part) == std::string::npos) return false;
    }
    return true;
  }
  void wait_until_it_stands() const {
    const auto last = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (!stands()) {
      ASSERT_LT(std::chrono::steady_clock::now(), last) << "it does not read, or does not stand still";
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  bool hear() {
    char bytes[4096];
    const ssize_t count = ::read(errors_[0], bytes, sizeof bytes);
    said_.append(bytes, static_cast<size_t>(std::max<ssize_t>(count, 0)));
    return count > 0;
  }

  int input_[2], errors_[2];
  pid_t child_ = -1;
  std::string said_;
};

TEST_F(HeldConversation, AnInterruptRightAfterTheQuestionEndsItsAnswerOnly) {
  say("What is </s>?\n");
  interrupt();  // while it warns of the </s>
  say("What is 1?\n");
  const std::string said = end();
  const std::string warning = "warning: the question spells </s>, which is taken as text, not as a token\n";
  EXPECT_TRUE(said.starts_with(warning + "(cancelled)\n")) << said;
  EXPECT_EQ(said.find("(cancelled)"), said.rfind("(cancelled)")) << said;
}

TEST_F(HeldConversation, AnInterruptBeforeTheQuestionIsNotOfItsAnswer) {
  say("/help\n");
  expect_line("Ctrl-C  stops an answer; twice at the prompt: end");
  interrupt();  // while it waits for a line
  say("What is 1?\n");
  const std::string said = end();
  EXPECT_TRUE(testing::contains(said, "\nCtrl-C again ends\n"));
  EXPECT_EQ(said.find("(cancelled)"), std::string::npos) << said;
}

TEST_F(Generating, WhatDoesNotGoTogetherIsRefused) {
  folder_.write("prompts.txt", "a\n");
  expect_refused("", "--prompt is missing: the question; or --messages");
  expect_refused("--prompt a --prompts prompts.txt", "--prompt: expected this or --prompts, got both");
  expect_refused("--prompts prompts.txt --chat", "--prompts: expected this or --chat, got both");
  expect_refused("--prompt a --output x", "--output: expected --prompts with it, got none");
  expect_refused("--prompt a --num_return_sequences 2 --temperature 1", "--num_return_sequences: expected --prompts");
  expect_refused("--prompts prompts.txt --num_return_sequences 2", "num_return_sequences: expected 1 at temperature 0");
  expect_refused("--prompts prompts.txt --print_prompt", "--print_prompt: expected --prompt or --messages with it");
  expect_refused("--prompt a --stop '[\"\"]'", "--stop: expected a list of texts, got \"[\\\"\\\"]\"");
  expect_refused("--prompt a --min_p 2", "--min_p: expected a number in [0, 1], got \"2\"");
  expect_refused("--prompt a --repetition_penalty 0", "--repetition_penalty: expected a number above 0, got \"0\"");
  folder_.write("prompts.jsonl", "{\"prompt\": \"a\"}\n{\"question\": \"a\"}\n");
  expect_refused("--prompts prompts.jsonl", "prompts.jsonl:2: expected prompt or messages, got neither");
  folder_.write("prompts.jsonl", "{\"prompt\": 3}\n");
  expect_refused("--prompts prompts.jsonl", "prompts.jsonl:1: prompt: expected a text, got 3");
  folder_.write("empty.txt", "\n\n");
  expect_refused("--prompts empty.txt", "empty.txt: expected prompts, got none");
}

// What is wrong with a folder is all that is said: no note about templates that lie beside it.
TEST_F(Generating, FoldersAreCheckedBeforeAnyNote) {
  folder_.write("rows.json", R"([{"question": "a", "answer": "b"}])");
  const auto refusal = [&](const std::string& command) {
    const Outcome refused = run_program(folder_, command);
    EXPECT_EQ(refused.code, 2) << command;
    EXPECT_EQ(refused.out, "");
    return refused.err;
  };
  const std::string eval = "lora-eval --dataset rows.json ", model = "--model_name_or_path nowhere";
  for (const char* flags : {" --prompt a", " --chat", " --prompt a --print_prompt"})
    EXPECT_EQ(refusal("lora-generate " + model + flags),
              "lora-generate: nowhere: expected a model folder, got nothing\n");
  for (const char* flags : {"", " --terms terms", " --compare base"})
    EXPECT_EQ(refusal(eval + model + flags), "lora-eval: nowhere: expected a model folder, got nothing\n");

  const std::string adapter = "--model_name_or_path model --adapter_name_or_path nowhere";
  EXPECT_EQ(refusal("lora-generate --prompt a " + adapter),
            "lora-generate: nowhere: expected an adapter folder, got nothing\n");
  EXPECT_EQ(refusal(eval + adapter), "lora-eval: nowhere: expected an adapter folder, got nothing\n");
}

// One line that names the file, and for a result of lora-train what to do.
TEST_F(Generating, AModelWhoseSaveWasCutShort) {
  namespace fs = std::filesystem;
  folder_.write("rows.json", R"([{"question": "a", "answer": "b"}])");
  const auto run = [&](const std::string& command) { return run_program(folder_, command); };
  const std::string train = "lora-train --dataset rows.json --model_name_or_path ";
  const std::string tuned = train + "model --finetuning_type full --max_steps 1 --device cpu --output_dir full";
  ASSERT_EQ(run(tuned).code, 0);
  const auto expect = [&](const std::string& folder, const std::string& line) {
    for (const std::string& command : {train + folder + " --target_modules all-linear --output_dir out",
                                       "lora-eval --dataset rows.json --model_name_or_path " + folder,
                                       "lora-generate --prompt a --model_name_or_path " + folder}) {
      const auto refused = run(command);
      EXPECT_EQ(refused.code, 2) << command;
      EXPECT_TRUE(testing::contains(refused.err, command.substr(0, command.find(' ')) + ": " + line));
      EXPECT_EQ(std::count(refused.err.begin(), refused.err.end(), '\n'), 1) << refused.err;
    }
  };
  const auto cut = [&](const std::string& file) {
    fs::resize_file(folder_ / file, fs::file_size(folder_ / file) - 64);
  };
  cut("full/model.safetensors");
  expect("full",
         "full: expected the files of one save, but model.safetensors differs from manifest.json; use a "
         "checkpoint in it, or resume the run");
  fs::remove(folder_ / "full/model.safetensors");
  expect("full", "full: expected the files of one save, but model.safetensors is missing; use a checkpoint in it, or");
  cut("model/model.safetensors");
  expect("model", "model/model.safetensors: tensor '");  // the rest of that line is tests/io's
  fs::remove(folder_ / "model/model.safetensors");
  folder_.write("model/model.safetensors.index.json",
                R"({"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}})");
  expect("model", "model/model-00002-of-00002.safetensors: expected a file, as model.safetensors.index.json says");
}

}  // namespace
}  // namespace rankfold
