// Data sets with a cache_dir: the same rows as without one, whatever lies there.
#include "data/token_store.h"
#include "rankfold/error.h"
#include "support/contains.h"
#include "support/sanitizers.h"
#include "support/temp_folder.h"
#include "support/tiny_tokenizer.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <fstream>
#include <functional>
#include <iostream>
#include <random>
#include <thread>
#include <tuple>

namespace rankfold {
namespace {

namespace fs = std::filesystem;
using testing::contains;
using testing::error_of;
using testing::kPieces;
using testing::read_bytes;
using testing::TempFolder;
using testing::train_tokenizer;

// Every kind of row; some are cut, some left out.
std::string mixed_rows() {
  std::string text;
  for (int i = 0; i < 150; ++i) {
    const std::string n = std::to_string(i);
    text += R"({"question": "What is aspirin )" + n + R"(?", "answer": "请先咨询医生。"})" + "\n";
    text += R"({"text": "the )" + n + R"( blood"})" + "\n";
    text += R"({"input_ids": [5, 6, )" + n + R"(], "labels": [5, )" + n + R"(, -100]})" + "\n";
    text += R"({"input_ids": [5, )" + n + "]}\n";
    if (i % 10 == 0) text += R"({"input_ids": [5, 6], "labels": [5, -100]})" + std::string("\n");
  }
  return text;
}

void expect_same(const Dataset& data, const Dataset& expected) {
  EXPECT_EQ(data.fingerprint(), expected.fingerprint());
  const DatasetReport &a = data.report(), &b = expected.report();
  EXPECT_EQ(std::tie(a.rows, a.truncated, a.dropped, a.without_labels, a.longest),
            std::tie(b.rows, b.truncated, b.dropped, b.without_labels, b.longest));
  ASSERT_EQ(data.size(), expected.size());
  for (int64_t i = 0; i < data.size(); ++i) {
    ASSERT_EQ(data[i].input_ids, expected[i].input_ids) << i;
    ASSERT_EQ(data[i].labels, expected[i].labels) << i;
  }
}

class CacheTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    tokenizer_folder_ = new TempFolder;
    train_tokenizer(tokenizer_folder_->path(), kPieces);
    tokenizer_ = std::make_unique<Tokenizer>(Tokenizer::open(tokenizer_folder_->path(), true));
  }
  static void TearDownTestSuite() { tokenizer_.reset(), delete tokenizer_folder_; }

  CacheTest() {
    cached_.max_length = 12;
    cached_.cache_dir = (folder_ / "out/cache").string();
    path_ = folder_.write("data.json", mixed_rows());
  }
  Dataset open(const DataConfig& config, const Tokenizer* tokenizer = tokenizer_.get(),
               int64_t vocab_size = kPieces) const {
    return Dataset::open(path_, tokenizer, config, vocab_size);
  }
  Dataset plain(DataConfig config, const Tokenizer* tokenizer = tokenizer_.get(), int64_t vocab_size = kPieces) const {
    config.cache_dir.clear();
    return open(config, tokenizer, vocab_size);
  }
  fs::path cache_file() const { return Dataset::cache_file(path_, cached_); }
  int64_t files() const { return std::distance(fs::directory_iterator(cached_.cache_dir), {}); }

  static inline TempFolder* tokenizer_folder_;
  static inline std::unique_ptr<Tokenizer> tokenizer_;
  TempFolder folder_;
  DataConfig cached_;
  fs::path path_;
};

TEST_F(CacheTest, GivesTheSameRows) {
  const Dataset expected = plain(cached_);
  EXPECT_EQ(expected.cache_note(), "");
  EXPECT_GT(expected.report().truncated, 0);
  EXPECT_GT(expected.report().without_labels, 0);
  EXPECT_FALSE(fs::exists(folder_ / "out"));

  const Dataset made = open(cached_);
  EXPECT_EQ(made.cache_note(), "tokens kept in " + cache_file().string());
  expect_same(made, expected);
  const std::string bytes = read_bytes(cache_file());
  const Dataset read = open(cached_);
  EXPECT_EQ(read.cache_note(), "tokens read from " + cache_file().string());
  expect_same(read, expected);
  EXPECT_EQ(read_bytes(cache_file()), bytes);
  EXPECT_EQ(files(), 1);

  fs::remove_all(cached_.cache_dir);  // an open file outlives its name
  expect_same(read, expected);
}

TEST_F(CacheTest, IsMissedWhereAnythingThatMattersDiffers) {
  open(cached_);
  const auto expect_made_anew = [&](const char* what, DataConfig config, const Tokenizer* tokenizer,
                                    int64_t vocabulary) {
    SCOPED_TRACE(what);
    config.cache_dir = cached_.cache_dir;
    const Dataset data = open(config, tokenizer, vocabulary);
    EXPECT_EQ(data.cache_note(), cache_file().string() + ": of other data or settings; written anew");
    expect_same(data, plain(config, tokenizer, vocabulary));
    EXPECT_TRUE(contains(open(config, tokenizer, vocabulary).cache_note(), "tokens read from"));
    EXPECT_EQ(files(), 1);
  };
  const auto with = [&](const char* what, const std::function<void(DataConfig&)>& change) {
    DataConfig config = cached_;
    change(config);
    expect_made_anew(what, config, tokenizer_.get(), kPieces);
  };
  with("max_length", [](DataConfig& c) { c.max_length = 11; });
  with("truncation_strategy", [](DataConfig& c) { c.truncation_strategy = "drop"; });
  with("prompt_template", [](DataConfig& c) { c.prompt_template = "{question} "; });
  with("train_on_prompt", [](DataConfig& c) { c.train_on_prompt = true; });
  expect_made_anew("vocab_size", cached_, tokenizer_.get(), kPieces + 1);

  const Tokenizer no_bos = Tokenizer::open(tokenizer_folder_->path(), false);
  const Tokenizer other_eos = Tokenizer::open(tokenizer_folder_->path(), true, 5);
  const TempFolder other;
  train_tokenizer(other.path(), kPieces - 1);
  const Tokenizer other_model = Tokenizer::open(other.path(), true);
  expect_made_anew("bos", cached_, &no_bos, kPieces);
  expect_made_anew("eos", cached_, &other_eos, kPieces);
  expect_made_anew("tokenizer.model", cached_, &other_model, kPieces);

  // One letter, neither size nor time.
  const auto time = fs::last_write_time(path_);
  std::string text = mixed_rows();
  text[text.size() / 2 + text.substr(text.size() / 2).find("blood")] = 'f';
  folder_.write("data.json", text);
  fs::last_write_time(path_, time);
  expect_made_anew("data", cached_, tokenizer_.get(), kPieces);

  folder_.write("data.json", "{\"ask\": \"x\", \"reply\": \"y\", \"answer\": \"z\"}");
  DataConfig columns = cached_;
  columns.columns = {{"question", "ask"}, {"answer", "reply"}};
  expect_made_anew("other columns", columns, tokenizer_.get(), kPieces);
  columns.columns = {{"question", "ask"}, {"answer", "answer"}};
  expect_made_anew("columns", columns, tokenizer_.get(), kPieces);

  folder_.write("data.json", "{\"input_ids\": [5, 6]}");
  expect_made_anew("ids", cached_, tokenizer_.get(), kPieces);
  expect_made_anew("no tokenizer", cached_, nullptr, kPieces);
}

TEST_F(CacheTest, IsOfOneDataFile) {
  open(cached_);
  const fs::path other = folder_.write("other/data.json", "{\"input_ids\": [5, 6]}");
  EXPECT_EQ(Dataset::open(other, nullptr, cached_, kPieces).size(), 1);
  EXPECT_EQ(files(), 2);
  fs::create_directory_symlink("other", folder_ / "link");
  EXPECT_TRUE(contains(Dataset::open(folder_ / "link/data.json", nullptr, cached_, kPieces).cache_note(), "read"));
  EXPECT_TRUE(contains(open(cached_).cache_note(), "read"));
  std::string longest;
  while (longest.size() < 250) longest += "数据";
  EXPECT_EQ(Dataset::open(folder_.write(longest, "{\"input_ids\": [5, 6]}"), nullptr, cached_, kPieces).size(), 1);
}

TEST_F(CacheTest, IsMadeAnewWhereItIsDamaged) {
  const Dataset expected = plain(cached_);
  open(cached_);
  const std::string whole = read_bytes(cache_file());
  const std::string name = "out/cache/" + cache_file().filename().string();
  const auto expect_made_anew = [&](const std::string& what) {
    SCOPED_TRACE(what);
    const Dataset data = open(cached_);
    EXPECT_TRUE(contains(data.cache_note(), cache_file().string() + ": "));
    EXPECT_TRUE(contains(data.cache_note(), "; written anew"));
    EXPECT_EQ(data.fingerprint(), expected.fingerprint());
    EXPECT_EQ(read_bytes(cache_file()), whole);
  };
  // Every byte of the footer and its surroundings, some of the rest.
  for (size_t at = 0; at < whole.size(); at += at + 200 < whole.size() ? whole.size() / 40 : 1) {
    std::string bytes = whole;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << at % 8));
    folder_.write(name, bytes);
    expect_made_anew("byte " + std::to_string(at));
  }
  for (const size_t size : {size_t{0}, size_t{1}, size_t{55}, size_t{56}, whole.size() / 2, whole.size() - 1}) {
    folder_.write(name, whole.substr(0, size));
    expect_made_anew("first " + std::to_string(size) + " bytes");
  }
  folder_.write(name, whole + "x");
  expect_made_anew("longer");
  folder_.write(name, std::string(whole.size(), '\0'));
  expect_made_anew("zeros");
  fs::remove(cache_file());
  fs::create_directory(cache_file());
  expect_made_anew("a folder");
  folder_.write(name + ".rankfold.tmp", "of a crash");
  folder_.write(name, "");
  expect_made_anew("an old temporary file");
  EXPECT_EQ(files(), 1);
  expect_same(open(cached_), expected);
}

// Nothing is wrong with such a file, and nothing is said of it.
TEST_F(CacheTest, ReplacesTheFileOfAnEarlierVersion) {
  open(cached_);
  const std::string name = "out/cache/" + cache_file().filename().string();
  folder_.write(name, std::string(500, 'x') + "rftoken2" + std::string(88, '\0'));
  EXPECT_EQ(open(cached_).cache_note(), "tokens kept in " + cache_file().string());
  expect_same(open(cached_), plain(cached_));
}

TEST_F(CacheTest, IsNotMadeOfABrokenFile) {
  folder_.write("data.json",
                mixed_rows() + "{\"question\": 5, \"answer\": \"a\"}\n{\"question\": 6, \"answer\": \"a\"}\n");
  for (int round = 0; round < 3; ++round)
    EXPECT_TRUE(
        contains(error_of<UserError>([&] { open(cached_); }), "data.json:616: question: expected a text, got 5"));
  EXPECT_FALSE(fs::exists(folder_ / "out"));
  folder_.write("data.json", "[{\"question\": \"5\"");
  EXPECT_TRUE(contains(error_of<UserError>([&] { open(cached_); }), "data.json:1:"));
  folder_.write("data.json", "{\"input_ids\": [1]}");
  EXPECT_TRUE(contains(error_of<UserError>([&] { open(cached_); }), "nothing is left of 1 rows"));
  EXPECT_FALSE(fs::exists(folder_ / "out"));

  folder_.write("data.json", mixed_rows());
  open(cached_);
  const std::string whole = read_bytes(cache_file());
  folder_.write("data.json", mixed_rows() + "{}");
  EXPECT_TRUE(contains(error_of<UserError>([&] { open(cached_); }), "data.json:616: expected"));
  EXPECT_EQ(read_bytes(cache_file()), whole);
  EXPECT_EQ(files(), 1);
}

// One letter of a row, by another program, at any time between two looks at `stop`.
TEST_F(CacheTest, AFileThatChangesWhileItIsReadIsRefused) {
  const std::string text = mixed_rows();
  DataConfig plain = cached_;
  plain.cache_dir.clear();
  int opened = 0, refused = 0, calls = 0;
  for (const DataConfig& config : {cached_, plain})
    for (int at = 1; at < 100; ++at) {
      folder_.write("data.json", text);
      calls = 0;
      const Stop stop = [&] {
        if (++calls != at) return false;
        std::fstream file(path_, std::ios::in | std::ios::out);
        file.seekp(static_cast<std::streamoff>(text.rfind("blood")));
        file << 'f';
        return false;
      };
      const std::string line =
          error_of<UserError>([&] { Dataset::open(path_, tokenizer_.get(), config, kPieces, stop); });
      if (calls < at) {  // the last look has been
        fs::remove_all(folder_ / "out");
        break;
      }
      // The first comes before the first byte is read.
      EXPECT_EQ(line, at == 1 ? "" : path_.string() + ": changed while it was read") << "at look " << at;
      EXPECT_EQ(config.cache_dir.empty() ? 0 : at == 1 ? 1 : 0, fs::exists(folder_ / "out") ? files() : 0);
      fs::remove_all(folder_ / "out");
      ++(line.empty() ? opened : refused);
    }
  EXPECT_EQ(opened, 2);
  EXPECT_GT(refused, 10);
  std::cout << "changed while it was read: " << opened << " opened, " << refused << " refused" << std::endl;
}

// Runs `work` in a process of its own and gives its exit code; `work` exits 0.
int in_child(const std::function<void()>& work) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      work();
      ::_exit(0);
    } catch (const Error& error) {
      std::cerr << error.what() << std::endl;
      ::_exit(static_cast<int>(error.code()));
    } catch (...) {
      ::_exit(100);
    }
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

TEST_F(CacheTest, MayBeOpenedByManyAtOnce) {
  std::string rows;
  for (int i = 0; i < 10; ++i) rows += mixed_rows();
  folder_.write("data.json", rows);
  const uint64_t expected = plain(cached_).fingerprint();
  const auto many = [&] {
    std::vector<std::thread> threads;
    std::atomic<int> right = 0;
    for (int i = 0; i < 4; ++i)
      threads.emplace_back([&] {
        const Dataset data = open(cached_);
        Example last;
        for (int64_t row = 0; row < data.size(); row += 7) last = data[row];
        right += data.fingerprint() == expected && !last.input_ids.empty();
      });
    for (std::thread& thread : threads) thread.join();
    if (right != 4) throw std::runtime_error("another data set");
  };
  for (int round = 0; round < 5; ++round) {
    std::vector<std::thread> processes;
    std::atomic<int> right = 0;
    for (int i = 0; i < 3; ++i)
      processes.emplace_back([&] { right += testing::kThreadSanitized ? (many(), true) : in_child(many) == 0; });
    for (std::thread& process : processes) process.join();
    EXPECT_EQ(right, 3);
    EXPECT_EQ(files(), 1);
    EXPECT_TRUE(contains(open(cached_).cache_note(), "tokens read from"));
    folder_.write("out/cache/" + cache_file().filename().string(), "damaged");
  }
}

TEST_F(CacheTest, SaysWhereItCannotBeWritten) {
  folder_.write("out", "a file");
  EXPECT_TRUE(contains(error_of<Error>([&] { open(cached_); }), "cannot create the folder"));
  cached_.cache_dir = (folder_ / "out").string();
  EXPECT_EQ(error_of<UserError>([&] { open(cached_); }),
            "cache_dir: expected a folder, got a file: " + cached_.cache_dir);
  fs::remove(folder_ / "out");
  // A disk that is full.
  const int code = in_child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit most{4096, 4096};
    ::setrlimit(RLIMIT_FSIZE, &most);
    const std::string line = error_of<Error>([&] { open(cached_); });
    if (!line.starts_with("cache_dir: ") || !line.ends_with(": writing failed: File too large")) ::_exit(101);
    open(cached_);
  });
  EXPECT_EQ(code, static_cast<int>(ExitCode::kStorage));
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

// In the process that asks: kibibytes that it has held at most, and holds now.
int64_t memory(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(key)) return std::stoll(line.substr(key.size() + 1));
  return 0;
}

TEST_F(CacheTest, TakesLittleMemory) {
  if (testing::kSanitized) GTEST_SKIP() << "the sanitizers' own memory grows with ours";
  constexpr int kRows = 200'000;
  {
    std::ofstream file(path_);
    std::string ids = "100";
    for (int i = 1; i < 200; ++i) ids += ", " + std::to_string(100 + i);
    for (int i = 0; i < kRows; ++i) file << "{\"input_ids\": [" << i % 400 << ", " << ids << "]}\n";
  }
  cached_.max_length = 1024;
  for (const bool warm : {false, true}) {
    const int64_t most = (warm ? 16 : 64) << 10;  // the file has 200 MB, the tokens 160
    EXPECT_EQ(in_child([&] {
                const int64_t before = memory("VmRSS:");
                const Dataset data = open(cached_);
                for (const int64_t row : epoch_order(data.size(), 1, 0, true))
                  if (data[row].input_ids[0] != row % 400) ::_exit(101);
                const int64_t growth = memory("VmHWM:") - before;
                std::cout << (warm ? "warm: " : "cold: ") << growth / 1024 << " MiB" << std::endl;
                if (growth > most) ::_exit(102);
              }),
              0);
  }
}

TEST(TokenStore, HoldsRowsOfAnyLength) {
  const TempFolder folder;
  std::mt19937 random(1);
  std::vector<Example> rows(2500);
  for (Example& row : rows) {
    row.input_ids.resize(1 + random() % 700);
    for (int32_t& id : row.input_ids) id = static_cast<int32_t>(random() >> 1);
    row.labels = row.input_ids;
    const uint32_t kind = random() % 3;
    for (int32_t& label : row.labels)
      if (random() % 2) label = kind == 0 ? -100 : kind == 1 ? static_cast<int32_t>(random() >> 1) : label;
  }
  for (const bool in_memory : {true, false}) {
    TokenWriter writer = in_memory ? TokenWriter() : TokenWriter(folder / "rows", "key");
    for (size_t i = 0; i < rows.size(); ++i)
      writer.append(static_cast<int64_t>(7 * i), rows[i].input_ids, rows[i].labels);
    const TokenStore store = writer.finish({{.rows = 3}, 4});
    EXPECT_EQ(store.summary().report.rows, 3);
    EXPECT_EQ(store.summary().fingerprint, 4u);
    ASSERT_EQ(store.size(), 2500);
    for (size_t i = 0; i < rows.size(); ++i) {
      const Example row = store[static_cast<int64_t>(i)];
      ASSERT_EQ(row.input_ids, rows[i].input_ids);
      ASSERT_EQ(row.labels, rows[i].labels);
      ASSERT_EQ(store.length(static_cast<int64_t>(i)), static_cast<int64_t>(row.labels.size()));
      ASSERT_EQ(store.number(static_cast<int64_t>(i)), static_cast<int64_t>(7 * i));
    }
  }
}

}  // namespace
}  // namespace rankfold
