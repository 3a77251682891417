#include "cli/chat_session.h"

#include "cli/console.h"
#include "cli/signals.h"
#include "core/check.h"
#include "core/utf8.h"
#include "text/vocabulary.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iostream>

namespace rankfold {
namespace {

constexpr const char* kHelp =
    "/reset  forget what was said, but for --messages\n"
    "/exit   end, as Ctrl-D does\n"
    "/help   this\n"
    "Ctrl-C  stops an answer; twice at the prompt: end\n";

enum class Input { kLine, kEnd, kInterrupt };

// Standard input by lines. Waits in short steps, as signals are another thread's.
class Lines {
 public:
  Input read(std::string& line) {
    for (;;) {
      if (const size_t end = held_.find('\n'); end != std::string::npos) return take(line, end, end + 1);
      if (is_over_) return held_.empty() ? Input::kEnd : take(line, held_.size(), held_.size());
      leave_if(stop_requested);
      constexpr int kMilliseconds = 100;
      pollfd input = {.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
      const bool is_ready = ::poll(&input, 1, kMilliseconds) > 0;
      // One that comes before a line is read is of the prompt, one that comes later of the answer.
      if (take_interrupt()) return held_.clear(), Input::kInterrupt;  // the terminal has dropped what was typed
      if (is_ready) fill();
    }
  }

 private:
  Input take(std::string& line, size_t end, size_t next) {
    line = held_.substr(0, end);
    held_.erase(0, next);
    if (line.ends_with('\r')) line.pop_back();
    return Input::kLine;
  }

  void fill() {
    char bytes[4096];
    const ssize_t count = ::read(STDIN_FILENO, bytes, sizeof bytes);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (count < 0) storage_failed(errno, "standard input: cannot be read");
    is_over_ = count == 0;
    held_.append(bytes, static_cast<size_t>(count));
    if (held_.size() > kLongestText) fail("standard input: expected lines of at most ", kLongestText, " bytes");
  }

  std::string held_;
  bool is_over_ = false;
};

class Talk {
 public:
  explicit Talk(const ChatSession& session)
      : session_(session),
        said_(session.opening),
        is_shown_(::isatty(STDOUT_FILENO)),
        is_terminal_(is_shown_ && ::isatty(STDIN_FILENO)) {}

  void run() {
    take_interrupts();
    if (is_terminal_) std::cerr << "/help lists the commands\n";
    if (!session_.chat_template) std::cerr << "no chat template: each question stands by itself\n";
    std::string line;
    for (bool was_interrupted = false; std::cout;) {  // for as long as somebody reads the answers
      if (is_terminal_) std::cout << "> " << std::flush;
      const Input input = lines_.read(line);
      if (input == Input::kEnd || (input == Input::kInterrupt && was_interrupted)) break;
      was_interrupted = input == Input::kInterrupt;
      if (was_interrupted) {
        std::cerr << "\nCtrl-C again ends\n";
      } else if (line == "/exit" || line == "/quit") {
        return;
      } else if (line.find_first_not_of(" \t") != std::string::npos) {
        obey_or_answer(line);
      }
    }
    if (is_terminal_) std::cout << std::endl;
  }

 private:
  void obey_or_answer(const std::string& line) {
    if (line == "/reset") {
      said_ = session_.opening;
      std::cerr << "what was said is forgotten\n";
    } else if (line == "/help") {
      std::cerr << kHelp;
    } else if (line.starts_with('/') && line.find_first_of(" /", 1) == std::string::npos) {
      std::cerr << one_line(line) << " is no command; /help lists them\n";
    } else if (!is_terminal_) {
      answer(line);
    } else {
      const Conversation before = said_;
      try {
        answer(line);
      } catch (const UserError& error) {
        said_ = before;
        std::cerr << error.what() << "\n";
      }
    }
  }

  std::vector<int32_t> ids_of(const std::string& question) {
    check_utf8(question, "standard input");
    const Tokenizer& tokenizer = session_.model.tokenizer();
    print_spelled_tokens(std::cerr, tokenizer, "the question", question);
    if (!session_.chat_template) return encode_prompt(tokenizer, session_.prompt_template, question);
    said_.say("user", question);
    return session_.chat_template->encode(said_, true);
  }

  void answer(const std::string& question) {
    const std::vector<int32_t> ids = ids_of(question);
    const int64_t size = static_cast<int64_t>(ids.size()), most = session_.model.config().max_position_embeddings;
    if (most > 0 && size >= most)
      fail("the conversation has ", size, " tokens, the model takes ", most, ": /reset begins a new one");
    size_t shown = 0;
    const auto show = [&](const TokenEvent& event) {
      write(event.text);
      shown += event.text.size();
      return take_interrupt() || !std::cout ? Reply::kEndAll : Reply::kGoOn;
    };
    GenerateConfig generate = session_.generate;
    if (most > 0) generate.max_new_tokens = std::min(generate.max_new_tokens, most - size);
    const Completion completion = complete(session_.model, {ids}, generate, show, stop_requested).at(0);
    write(std::string_view(completion.text).substr(shown));
    std::cout << std::endl;
    if (completion.reason != FinishReason::kStop) std::cerr << "(" << word_of(completion.reason) << ")\n";
    said_.say("assistant", completion.text);
  }

  void write(std::string_view text) const {
    std::cout << (is_shown_ ? harmless(std::string(text)) : std::string(text)) << std::flush;
  }

  const ChatSession& session_;
  Conversation said_;
  Lines lines_;
  bool is_shown_, is_terminal_;  // answers go to a terminal; questions come from one, too
};

}  // namespace

void converse(const ChatSession& session) { Talk(session).run(); }

}  // namespace rankfold
