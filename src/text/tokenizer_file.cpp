#include "text/tokenizer_file.h"

#include "core/check.h"
#include "core/file.h"
#include "core/json.h"

#include <unordered_set>

namespace rankfold {
namespace {

using nlohmann::json;

constexpr size_t kMostValues = 1'000'000;  // of the settings; 10,000 added tokens have 80,000
constexpr size_t kDeepest = 32;

// Builds the settings as a tree, and lists from what stands under model.vocab and model.merges.
class TokenizerFileReader : public nlohmann::json_sax<json> {
 public:
  TokenizerFileReader(TokenizerFile& file, size_t size) : file_(file), size_(size) {}

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(int64_t value) override { return add(value); }
  bool number_unsigned(uint64_t value) override {
    if (part_ != kVocabulary) return add(value);
    if (value >= static_cast<uint64_t>(kMostPieces))
      refuse("vocab: piece ", brief(piece_), ": expected an id below ", kMostPieces, ", got ", value);
    if (file_.vocabulary.size() == static_cast<size_t>(kMostPieces))
      refuse("vocab: more than ", kMostPieces, " pieces");
    file_.vocabulary.emplace_back(std::move(piece_), static_cast<int32_t>(value));
    return true;
  }
  bool number_float(double value, const std::string&) override { return add(value); }
  bool binary(json::binary_t&) override { return false; }
  bool string(std::string& value) override {
    if (part_ == kMerges) return add_merge(value);
    if (part_ == kPair) {
      check_length(value);
      pair_.push_back(std::move(value));
      if (pair_.size() > 2) refuse_merge();
      return true;
    }
    return add(std::move(value));
  }

  bool start_object(size_t) override {
    if (part_ == kSettings && is_at("vocab")) {
      part_ = kVocabulary;
      return true;
    }
    return open(json::object());
  }
  bool start_array(size_t) override {
    if (part_ == kSettings && is_at("vocab"))
      refuse("vocab: expected an object of pieces and ids, as BPE models have, got a list; only BPE is supported");
    if (part_ == kSettings && is_at("merges")) {
      part_ = kMerges;
      return true;
    }
    if (part_ == kMerges) {
      part_ = kPair;
      pair_.clear();
      return true;
    }
    return open(json::array());
  }
  bool end_object() override {
    if (part_ == kVocabulary)
      part_ = kSettings;
    else
      stack_.pop_back();
    return true;
  }
  bool end_array() override {
    if (part_ == kPair) {
      if (pair_.size() != 2) refuse_merge();
      push_merge(std::move(pair_[0]), std::move(pair_[1]));
      part_ = kMerges;
    } else if (part_ == kMerges) {
      part_ = kSettings;
    } else {
      stack_.pop_back();
    }
    return true;
  }
  bool key(std::string& name) override {
    if (part_ == kVocabulary) {
      check_length(name);
      piece_ = std::move(name);
      return true;
    }
    key_ = name;
    if (stack_.size() == 1) top_key_ = name;
    if ((stack_.size() == 2 && top_key_ == "model" && (name == "vocab" || name == "merges") &&
         !lists_.insert(name).second) ||
        stack_.back()->contains(name))
      fail(file_.name, ": key ", brief(name), " is given twice");
    slot_ = &(*stack_.back())[name];
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    fail(file_.name, ": not JSON (byte ", position, " of ", size_, ")");
    return false;  // not reached
  }

 private:
  enum Part { kSettings, kVocabulary, kMerges, kPair };

  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... what) const {
    fail(file_.name, ": model.", what...);
  }
  [[noreturn]] void refuse_merge() const {
    refuse("merges[", file_.merges.size(), "]: expected two pieces, as \"a b\" or [\"a\", \"b\"]");
  }
  void check_length(const std::string& piece) const {
    if (piece.size() > kLongestPiece)
      refuse("vocab: a piece of ", piece.size(), " bytes; at most ", kLongestPiece, " are supported");
  }

  bool is_at(const char* key) const { return stack_.size() == 2 && top_key_ == "model" && key_ == key; }

  bool add_merge(const std::string& both) {
    check_length(both);
    const size_t space = both.find(' ');
    if (space == std::string::npos || both.find(' ', space + 1) != std::string::npos)
      refuse("merges[", file_.merges.size(), "]: expected two pieces with one space between, got ", brief(both));
    push_merge(both.substr(0, space), both.substr(space + 1));
    return true;
  }
  void push_merge(std::string left, std::string right) {
    if (file_.merges.size() == kMostMerges) refuse("merges: more than ", kMostMerges);
    file_.merges.emplace_back(std::move(left), std::move(right));
  }

  json* put(json value) {
    if (part_ == kVocabulary) refuse("vocab: piece ", brief(piece_), ": expected an id, got ", brief(value));
    if (part_ != kSettings) refuse_merge();
    if (++values_ > kMostValues) fail(file_.name, ": more than ", kMostValues, " values");
    if (stack_.empty()) return &(file_.settings = std::move(value));
    if (stack_.back()->is_object()) return &(*slot_ = std::move(value));
    return &stack_.back()->get_ref<json::array_t&>().emplace_back(std::move(value));
  }
  bool add(json value) {
    put(std::move(value));
    return true;
  }
  bool open(json value) {
    if (stack_.size() >= kDeepest) fail(file_.name, ": nested deeper than ", kDeepest, " levels");
    stack_.push_back(put(std::move(value)));
    return true;
  }

  TokenizerFile& file_;
  size_t size_, values_ = 0;
  Part part_ = kSettings;
  std::vector<json*> stack_;  // the open objects and lists
  json* slot_ = nullptr;      // where the value of the last key belongs
  std::string top_key_, key_, piece_;
  std::vector<std::string> pair_;
  std::unordered_set<std::string> lists_;
};

}  // namespace

TokenizerFile read_tokenizer_file(const std::filesystem::path& path) {
  TokenizerFile file{path.string(), {}, {}, {}};
  const std::string text = read_text(path, kLargestTokenizerFile);
  if (const std::string kind = foreign_kind(text); !kind.empty()) fail(file.name, ": expected JSON, got ", kind);
  if (const size_t nul = text.find('\0'); nul != std::string::npos)
    fail(file.name, ": not JSON (byte ", nul, " is NUL)");
  TokenizerFileReader reader(file, text.size());
  json::sax_parse(text, &reader);
  if (!file.settings.is_object()) fail(file.name, ": expected an object");
  if (file.vocabulary.empty())
    fail(file.name, ": model.vocab: expected an object of pieces and ids, as BPE models have, got none");
  return file;
}

}  // namespace rankfold
