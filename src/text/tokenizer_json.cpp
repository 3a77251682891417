#include "text/tokenizer_json.h"

#include "core/check.h"
#include "core/checksum.h"
#include "core/utf8.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/normalizer.h"
#include "text/post_processor.h"
#include "text/pre_tokenizer.h"
#include "text/text_decoder.h"
#include "text/tokenizer_file.h"

#include <algorithm>
#include <mutex>
#include <span>
#include <utility>

namespace rankfold {
namespace {

constexpr size_t kMostAdded = 1 << 16;
constexpr size_t kLongestAdded = 512;  // bytes

// All that the file says. Does not change once it is read.
struct Content {
  std::string name;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::unique_ptr<Bpe> model;
  DecoderSettings decoder;
  BeforeAndAfter specials;
  std::vector<AddedToken> added;
  AddedTokenFinder in_text, in_normalized;
  std::vector<std::string> texts, decoded;  // of each id
  std::vector<bool> is_token, is_special;
  uint64_t checksum = 0;

  int32_t size() const { return static_cast<int32_t>(texts.size()); }
  bool has(int32_t id) const { return id >= 0 && id < size() && is_token[static_cast<size_t>(id)]; }
};

// The room that one text needs while it is encoded.
struct Scratch {
  Normalizer::Scratch normalizer;
  PreTokenizer::Scratch pre_tokenizer;
  Bpe::Scratch model;
  std::vector<Found> in_text, in_normalized;
};

// As many as there are threads that encode at one time.
class ScratchPool {
 public:
  class Lease {
   public:
    explicit Lease(ScratchPool& pool) : pool_(pool) {
      const std::lock_guard lock(pool.mutex_);
      if (!pool.free_.empty()) {
        scratch_ = std::move(pool.free_.back());
        pool.free_.pop_back();
      }
      if (scratch_ == nullptr) scratch_ = std::make_unique<Scratch>();
    }
    ~Lease() {
      const std::lock_guard lock(pool_.mutex_);
      if (pool_.free_.size() < pool_.free_.capacity()) pool_.free_.push_back(std::move(scratch_));
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Scratch& operator*() const { return *scratch_; }

   private:
    ScratchPool& pool_;
    std::unique_ptr<Scratch> scratch_;
  };

  ScratchPool() { free_.reserve(256); }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> free_;
};

class JsonVocabulary : public Vocabulary {
 public:
  JsonVocabulary(std::shared_ptr<const Content> content, std::vector<bool> is_control)
      : content_(std::move(content)), is_control_(std::move(is_control)) {
    std::vector<int32_t> ids;
    for (int32_t id = 0; id < content_->size(); ++id)
      if (is_control_[static_cast<size_t>(id)]) ids.push_back(id);
    const auto may_be_spelt = [this](int32_t id) { return content_->model->may_give(id); };
    if (std::any_of(ids.begin(), ids.end(), may_be_spelt)) blocked_ = is_control_;
    fingerprint_ = checksum64(std::as_bytes(std::span(ids)), content_->checksum);
  }

  using Vocabulary::encode;
  void encode(std::string_view text, std::span<const TextRange> users, Tokens& tokens) const override {
    static const std::vector<bool> kNone;
    const Content& content = *content_;
    tokens.ids.clear();
    tokens.ranges.clear();
    if (text.size() > kLongestInput) fail("a text of ", text.size(), " bytes; at most ", kLongestInput, " are encoded");
    check_utf8(text, "text");
    const ScratchPool::Lease lease(pool_);
    Scratch& scratch = *lease;
    std::optional<ScratchPool::Lease> lease_of_blocked;  // words of persons, where they could become control tokens
    if (!users.empty() && !blocked_.empty()) lease_of_blocked.emplace(pool_of_blocked_);
    const HiddenTokens hidden{users.empty() ? kNone : is_control_, users};
    const auto put = [&tokens](const Piece& piece, const Found& found) {
      tokens.ids.push_back(found.id);
      tokens.ranges.push_back(piece.range(found.begin, found.end));
    };
    const Piece whole{text, text};
    content.in_text.find(whole, hidden, scratch.in_text);
    for (const Found& outer : scratch.in_text) {
      if (outer.id >= 0) {
        put(whole, outer);
        continue;
      }
      const Piece piece = content.normalizer.apply(whole.part(outer.begin, outer.end), scratch.normalizer);
      content.in_normalized.find(piece, hidden, scratch.in_normalized);
      for (const Found& inner : scratch.in_normalized) {
        if (inner.id >= 0)
          put(piece, inner);
        else
          content.pre_tokenizer.apply(
              piece.part(inner.begin, inner.end), scratch.pre_tokenizer, [&](const Piece& word) {
                const TextRange range = lease_of_blocked ? word.range(0, word.text.size()) : TextRange{};
                if (lease_of_blocked && has_part_of(users, range.begin, range.end))
                  content.model->encode(word, blocked_, (**lease_of_blocked).model, tokens);
                else
                  content.model->encode(word, kNone, scratch.model, tokens);
              });
      }
    }
  }

  std::unique_ptr<IncrementalDecoder> decoder(Controls controls) const override {
    return std::make_unique<TextDecoder>(content_->decoder, [this, controls](int32_t id) -> const std::string* {
      if (!content_->has(id) || (controls == Controls::kHidden && is_control(id))) return nullptr;
      return &content_->decoded[static_cast<size_t>(id)];
    });
  }

  std::string piece(int32_t id) const override {
    return content_->has(id) ? content_->texts[static_cast<size_t>(id)] : std::string();
  }
  std::optional<int32_t> id_of(std::string_view piece) const override {
    for (const AddedToken& token : content_->added)
      if (token.text == piece) return token.id;
    const int32_t id = content_->model->pieces().find(piece);
    return id < 0 ? std::nullopt : std::optional(id);
  }
  bool is_control(int32_t id) const override { return content_->has(id) && is_control_[static_cast<size_t>(id)]; }
  const std::vector<AddedToken>& added_tokens() const override { return content_->added; }
  int64_t size() const override { return content_->size(); }
  uint64_t fingerprint() const override { return fingerprint_; }
  const std::vector<int32_t>& before() const override { return content_->specials.before; }
  const std::vector<int32_t>& after() const override { return content_->specials.after; }

  std::shared_ptr<const Vocabulary> with_control(const std::vector<int32_t>& ids) const override {
    std::vector<bool> is_control = is_control_;
    for (const int32_t id : ids) {
      if (!content_->has(id)) fail(content_->name, ": has no token with the id ", id);
      is_control[static_cast<size_t>(id)] = is_control_[static_cast<size_t>(id)] || !content_->model->is_elementary(id);
    }
    return std::make_shared<JsonVocabulary>(content_, std::move(is_control));
  }

 private:
  std::shared_ptr<const Content> content_;
  std::vector<bool> is_control_;
  std::vector<bool> blocked_;  // is_control_ where the model could give one of them, else empty
  uint64_t fingerprint_;
  mutable ScratchPool pool_, pool_of_blocked_;  // words are remembered apart
};

// Ids follow from the model and the order of the list, so those of the file must be the same.
std::vector<AddedToken> read_added_tokens(const JsonNode& list, const Pieces& pieces,
                                          const std::vector<AddedToken>& more) {
  std::vector<AddedToken> tokens;
  TextTable known;
  const std::vector<JsonNode> nodes = list.is_null() ? std::vector<JsonNode>() : list.list();
  if (nodes.size() + more.size() > kMostAdded) fail(list.place(), ": more than ", kMostAdded, " tokens");
  known.reserve(nodes.size() + more.size());
  tokens.reserve(nodes.size() + more.size());  // the table has their texts
  int32_t next = pieces.count();
  for (const JsonNode& node : nodes) {
    node.expect_only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    AddedToken& token = tokens.emplace_back();
    token.text = node["content"].text();
    if (token.text.empty() || token.text.size() > kLongestAdded)
      node["content"].refuse("a text of 1 to ", kLongestAdded, " bytes");
    token.special = node["special"].flag();
    token.single_word = node["single_word"].flag();
    token.lstrip = node["lstrip"].flag();
    token.rstrip = node["rstrip"].flag();
    token.normalized = node["normalized"].flag();
    if (!known.insert(token.text, static_cast<int32_t>(tokens.size())))
      fail(node.place(), ".content: ", brief(token.text), " is given twice");
    const int32_t in_model = pieces.find(token.text);
    token.id = in_model >= 0 ? in_model : next++;
    if (node["id"].number(0, kMostPieces - 1) != token.id)
      node["id"].refuse(token.id,
                        in_model >= 0 ? ", the id of that piece in model.vocab,"
                                      : ", the next id after model.vocab and the tokens before,",
                        " for ", brief(token.text));
  }
  for (const AddedToken& token : more) {
    if (token.text.empty() || token.text.size() > kLongestAdded) continue;
    if (!known.insert(token.text, static_cast<int32_t>(tokens.size()))) continue;
    const int32_t in_model = pieces.find(token.text), expected = in_model >= 0 ? in_model : next++;
    if (token.id != expected)
      fail(list.place(), ": lacks ", brief(token.text), ", which another file of the folder adds with the id ",
           token.id, "; expected the id ", expected, in_model >= 0 ? ", as in model.vocab" : ", the next one");
    tokens.push_back(token);
  }
  return tokens;
}

void add_to_finders(const JsonNode& list, Content& content) {
  Normalizer::Scratch scratch;
  for (const AddedToken& token : content.added) {
    std::string pattern = token.text;
    if (token.normalized) {
      pattern = content.normalizer.apply({token.text, token.text}, scratch).text;
      content.decoded[static_cast<size_t>(token.id)] = content.decoder.of_piece(pattern);
    }
    if (pattern.empty()) fail(list.place(), ": nothing is left of ", brief(token.text), " after normalising");
    if (!(token.normalized ? content.in_normalized : content.in_text).add(token, pattern))
      fail(list.place(), ": ", brief(token.text), " is another token's text after normalising");
  }
}

void read_pieces(Content& content) {
  const Pieces& pieces = content.model->pieces();
  int32_t size = pieces.size();
  for (const AddedToken& token : content.added) size = std::max(size, token.id + 1);
  const auto count = static_cast<size_t>(size);
  content.texts.resize(count);
  content.decoded.resize(count);
  content.is_token.resize(count);
  content.is_special.resize(count);
  const auto set = [&content](int32_t id, const std::string& text) {
    const auto index = static_cast<size_t>(id);
    content.texts[index] = text;
    content.decoded[index] = content.decoder.of_piece(text);
    content.is_token[index] = true;
  };
  for (int32_t id = 0; id < pieces.size(); ++id)
    if (pieces.has(id)) set(id, pieces.text(id));
  for (const AddedToken& token : content.added) {
    set(token.id, token.text);
    content.is_special[static_cast<size_t>(token.id)] = token.special;
  }
}

}  // namespace

std::shared_ptr<const Vocabulary> read_tokenizer_json(const std::filesystem::path& path,
                                                      const std::vector<AddedToken>& more) {
  TokenizerFile file = read_tokenizer_file(path);
  const JsonNode root(file.settings, file.name);
  root.expect_only({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
                    "decoder", "model"});
  if (root["version"].text("1.0") != "1.0") root["version"].refuse("\"1.0\"");
  const auto content = std::make_shared<Content>();
  content->name = file.name;
  content->normalizer = Normalizer::of(root["normalizer"]);
  content->pre_tokenizer = PreTokenizer::of(root["pre_tokenizer"]);
  content->model = std::make_unique<Bpe>(root["model"], file, content->pre_tokenizer.is_byte_level());
  content->decoder = DecoderSettings::of(root["decoder"]);
  content->added = read_added_tokens(root["added_tokens"], content->model->pieces(), more);
  read_pieces(*content);
  add_to_finders(root["added_tokens"], *content);
  content->specials = BeforeAndAfter::of(root["post_processor"], content->size());
  for (const AddedToken& token : content->added)
    if (token.special && content->model->is_elementary(token.id))
      fail(root["added_tokens"].place(), ": ", brief(token.text), " stands for a byte, so it cannot be special");

  content->checksum = content->model->checksum(kChecksumSeed);
  for (const char* part : {"normalizer", "pre_tokenizer"}) {
    const std::string settings = root[part].value().dump();
    content->checksum = checksum64(std::as_bytes(std::span(settings)), content->checksum);
  }
  for (const AddedToken& token : content->added) {  // `more` too
    const std::string settings =
        join(token.id, token.special, token.single_word, token.lstrip, token.rstrip, token.normalized, token.text);
    content->checksum = checksum64(std::as_bytes(std::span(settings)), content->checksum);
  }
  return std::make_shared<JsonVocabulary>(content, content->is_special);
}

}  // namespace rankfold
