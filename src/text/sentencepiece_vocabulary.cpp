#include "text/sentencepiece_vocabulary.h"

#include "core/check.h"
#include "core/checksum.h"
#include "core/file.h"
#include "text/tokenizer_model.h"
#include "text/unicode.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <set>
#include <span>

namespace rankfold {
namespace {

// What copies that differ by their control tokens share.
struct SentencepieceModel {
  sentencepiece::SentencePieceProcessor model;
  size_t longest_text = 0;
  uint64_t fingerprint = kChecksumSeed;
  std::vector<AddedToken> added;
  std::map<int32_t, std::string> added_text;  // the first of each id

  bool is_piece(int32_t id) const { return id >= 0 && id < model.GetPieceSize(); }
};

class SentencepieceVocabulary : public Vocabulary {
 public:
  SentencepieceVocabulary(std::shared_ptr<const SentencepieceModel> pieces, std::set<int32_t> controls)
      : pieces_(std::move(pieces)), controls_(std::move(controls)), fingerprint_(pieces_->fingerprint) {
    const auto spell = [this](int32_t id) {
      if (const std::string text = piece(id); !text.empty())
        spelled_[static_cast<unsigned char>(text[0])].push_back({text, id});
    };
    for (int32_t id = 0; id < pieces_->model.GetPieceSize(); ++id)
      if (is_control(id)) spell(id);
    for (const AddedToken& token : pieces_->added) spell(token.id);
    for (auto& tokens : spelled_)  // the longest first
      std::stable_sort(tokens.begin(), tokens.end(),
                       [](const Spelled& a, const Spelled& b) { return a.text.size() > b.text.size(); });
    const auto add = [this](int32_t id, const std::string& text) {
      const std::string line = std::to_string(id) + " " + text;
      fingerprint_ = checksum64(std::as_bytes(std::span(line)), fingerprint_);
    };
    for (const int32_t id : controls_)
      if (!pieces_->is_piece(id) || !(pieces_->model.IsControl(id) || pieces_->model.IsUnknown(id))) add(id, "");
    for (const AddedToken& token : pieces_->added) add(token.id, token.text);
  }

  using Vocabulary::encode;
  void encode(std::string_view text, std::span<const TextRange> users, Tokens& tokens) const override {
    if (text.size() > pieces_->longest_text)
      fail("a text of ", text.size(), " bytes; at most ", pieces_->longest_text, " are encoded");
    tokens.ids.clear(), tokens.ranges.clear();
    if (users.size() == 1 && users[0].begin == 0 && users[0].end >= text.size())  // nearly all texts
      return encode_part(text, 0, text.size(), tokens);
    size_t begin = 0;
    for (size_t at = 0; at < text.size();) {
      const Spelled* token = token_at(text, at);
      if (!token || has_part_of(users, at, at + token->text.size())) {
        ++at;
        continue;
      }
      encode_part(text, begin, at, tokens);
      begin = at + token->text.size();
      tokens.ids.push_back(token->id);
      tokens.ranges.push_back({static_cast<uint32_t>(at), static_cast<uint32_t>(begin)});
      at = begin;
    }
    encode_part(text, begin, text.size(), tokens);
  }

  std::unique_ptr<IncrementalDecoder> decoder(Controls controls) const override;

  std::string piece(int32_t id) const override {
    if (const auto added = pieces_->added_text.find(id); added != pieces_->added_text.end()) return added->second;
    return pieces_->is_piece(id) ? pieces_->model.IdToPiece(id) : "";
  }
  std::optional<int32_t> id_of(std::string_view text) const override {
    if (text.empty()) return std::nullopt;
    const auto& model = pieces_->model;
    if (const int id = model.PieceToId(text); pieces_->is_piece(id) && model.IdToPiece(id) == text) return id;
    for (const AddedToken& token : pieces_->added)
      if (token.text == text) return token.id;
    return std::nullopt;
  }
  bool is_control(int32_t id) const override {
    if (controls_.contains(id)) return true;
    return pieces_->is_piece(id) ? pieces_->model.IsControl(id) || pieces_->model.IsUnknown(id) : !piece(id).empty();
  }
  const std::vector<AddedToken>& added_tokens() const override { return pieces_->added; }
  int64_t size() const override { return pieces_->model.GetPieceSize(); }
  uint64_t fingerprint() const override { return fingerprint_; }
  const std::vector<int32_t>& before() const override { return none_; }
  const std::vector<int32_t>& after() const override { return none_; }
  std::shared_ptr<const Vocabulary> with_control(const std::vector<int32_t>& ids) const override {
    std::set<int32_t> controls = controls_;
    for (const int32_t id : ids)
      if (!pieces_->is_piece(id) || !pieces_->model.IsByte(id)) controls.insert(id);
    return std::make_shared<SentencepieceVocabulary>(pieces_, std::move(controls));
  }

  // Whether decoding leaves the id out.
  bool is_silent(int32_t id) const { return !pieces_->is_piece(id) || is_control(id); }
  std::string text_of(const std::vector<int>& ids) const {
    std::string text;
    if (const auto status = pieces_->model.Decode(ids, &text); !status.ok())
      fail("tokenizer.model: ", status.error_message());
    return text;
  }
  const sentencepiece::SentencePieceProcessor& model() const { return pieces_->model; }

 private:
  struct Spelled {
    std::string text;
    int32_t id;
  };
  const Spelled* token_at(std::string_view text, size_t at) const {
    for (const Spelled& token : spelled_[static_cast<unsigned char>(text[at])])
      if (text.substr(at).starts_with(token.text)) return &token;
    return nullptr;
  }

  void encode_part(std::string_view text, size_t begin, size_t end, Tokens& tokens) const {
    if (begin == end) return;
    const auto encoded = pieces_->model.EncodeAsImmutableProto(text.substr(begin, end - begin));
    const size_t first = tokens.ids.size(), count = encoded.pieces_size();
    for (size_t i = 0; i < count; ++i) {
      const auto piece = encoded.pieces(static_cast<int>(i));
      const auto id = static_cast<int32_t>(piece.id());
      RANKFOLD_ASSERT(!pieces_->model.IsControl(id));
      const TextRange range{static_cast<uint32_t>(begin + piece.begin()), static_cast<uint32_t>(begin + piece.end())};
      if (controls_.contains(id) && !pieces_->model.IsUnknown(id)) {
        put_characters(piece.piece(), range, tokens);
        continue;
      }
      tokens.ids.push_back(id);
      tokens.ranges.push_back(range);
    }
    // Of the bytes of one character the last alone has its range, and what was put in front has none.
    for (size_t i = tokens.ids.size(); i-- > first + 1;)
      if (tokens.ranges[i - 1].begin == tokens.ranges[i - 1].end &&
          tokens.ranges[i - 1].begin == tokens.ranges[i].begin)
        tokens.ranges[i - 1] = tokens.ranges[i];
  }

  // A piece that is a control token for this folder, not for the model, as the characters it is made of.
  void put_characters(std::string_view piece, TextRange range, Tokens& tokens) const {
    const auto& model = pieces_->model;
    const auto put = [&](int32_t id) {
      tokens.ids.push_back(id);
      tokens.ranges.push_back(range);
    };
    for (size_t at = 0; at < piece.size();) {
      const std::string_view character = piece.substr(at, unicode::length_of(piece[at]));
      at += character.size();
      const int32_t id = model.PieceToId(character);
      if (!model.IsUnknown(id) && !controls_.contains(id)) {
        put(id);
        continue;
      }
      std::vector<int32_t> bytes;
      for (const char byte : character) {
        char name[8];
        std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned>(static_cast<unsigned char>(byte)));
        if (const int32_t of_byte = model.PieceToId(name); model.IsByte(of_byte)) bytes.push_back(of_byte);
      }
      if (bytes.size() == character.size())
        std::for_each(bytes.begin(), bytes.end(), put);
      else
        put(model.unk_id());
    }
  }

  std::shared_ptr<const SentencepieceModel> pieces_;
  std::set<int32_t> controls_;  // beside the model's own
  uint64_t fingerprint_;
  std::array<std::vector<Spelled>, 256> spelled_;  // control and added tokens by their first byte
  std::vector<int32_t> none_;
};

// Decodes a window of ids that begins where a text was last given out: what comes before may change how a piece begins.
class SentencepieceDecoder : public IncrementalDecoder {
 public:
  SentencepieceDecoder(const SentencepieceVocabulary& vocabulary, Controls controls)
      : vocabulary_(vocabulary), controls_(controls) {}

  std::string push(int32_t id) override {
    if (vocabulary_.is_silent(id)) {
      std::string text = finish_part();
      if (controls_ == Controls::kShown) text += vocabulary_.piece(id);
      return text;
    }
    window_.push_back(id);
    if (vocabulary_.model().IsByte(id)) {
      const std::string name = vocabulary_.model().IdToPiece(id);  // <0xE4>
      bytes_ += static_cast<char>(std::stoi(name.substr(3, 2), nullptr, 16));
      if (is_unfinished()) return "";
    }
    return take();
  }

  std::string finish() override {
    std::string text = finish_part();
    window_.clear(), given_ = 0;
    return text;
  }

 private:
  // Whether what the bytes end in may become a character by further ones.
  bool is_unfinished() const {
    for (size_t back = 1; back <= std::min<size_t>(3, bytes_.size()); ++back) {
      const auto byte = static_cast<unsigned char>(bytes_[bytes_.size() - back]);
      if (byte >= 0xc2 && byte <= 0xf4) return back < (byte >= 0xf0 ? 4u : byte >= 0xe0 ? 3u : 2u);
      if (byte < 0x80 || byte > 0xbf) return false;
    }
    return false;
  }
  std::string finish_part() { return window_.size() > given_ ? take() : ""; }
  std::string take() {
    bytes_.clear();
    const std::string before = vocabulary_.text_of({window_.begin(), window_.begin() + static_cast<ptrdiff_t>(given_)});
    std::string text = vocabulary_.text_of(window_);
    text.erase(0, before.size());
    // Blanks at its begin may count for nothing: a window begins with ids that show something.
    if (text.find_first_not_of(' ') != std::string::npos)
      window_.erase(window_.begin(), window_.begin() + static_cast<ptrdiff_t>(given_));
    given_ = window_.size();
    return text;
  }

  const SentencepieceVocabulary& vocabulary_;
  Controls controls_;
  std::vector<int> window_;  // the ids of the text given out last, then those that are held back
  size_t given_ = 0;         // ids of the former
  std::string bytes_;        // of byte pieces that are held back
};

std::unique_ptr<IncrementalDecoder> SentencepieceVocabulary::decoder(Controls controls) const {
  return std::make_unique<SentencepieceDecoder>(*this, controls);
}

void load(const std::string& bytes, const std::string& name, sentencepiece::SentencePieceProcessor& model) {
  try {
    const auto status = model.LoadFromSerializedProto(bytes);
    if (!status.ok()) fail(name, ": not a sentencepiece model: ", status.error_message());
  } catch (const UserError&) {
    throw;
  } catch (const std::exception& error) {  // of the tries that it builds over the pieces
    fail(name, ": not a sentencepiece model: ", error.what());
  }
  // sentencepiece looks a piece of text up among the control pieces too. No harm where text is never cut into
  // "<s>", as in BPE and unigram models; but it fails in word models and for a control piece of one character.
  for (int id = 0; id < model.GetPieceSize(); ++id) {
    std::vector<int> ids;
    if (model.IsControl(id) && !model.Encode(model.IdToPiece(id), &ids).ok())
      fail(name, ": a text that spells the control token '", model.IdToPiece(id), "' cannot be encoded");
  }
}

}  // namespace

TokenizerModel read_tokenizer_model(const std::filesystem::path& path, const std::vector<AddedToken>& added) {
  constexpr uint64_t kLargest = 16 << 20;  // a vocabulary of 250,000 pieces takes 5
  const std::string bytes = read_text(path, kLargest), name = path.string();
  if (const std::string kind = foreign_kind(bytes); !kind.empty())
    fail(name, ": expected a sentencepiece model, got ", kind);
  const auto pieces = std::make_shared<SentencepieceModel>();
  pieces->longest_text = kLongestText / check_tokenizer_model(bytes, name);
  load(bytes, name, pieces->model);
  pieces->fingerprint = checksum64(std::as_bytes(std::span(bytes)));
  std::set<int32_t> controls;
  if (const int pad = pieces->model.pad_id(); pad >= 0) controls.insert(pad);
  for (const AddedToken& token : added) {
    const bool is_piece = pieces->is_piece(token.id);
    if (token.text.empty() || (is_piece && pieces->model.IdToPiece(token.id) == token.text)) continue;
    if (is_piece && pieces->model.IsByte(token.id)) continue;  // every text needs it
    pieces->added.push_back(token);
    pieces->added_text.emplace(token.id, token.text);
    if (is_piece) controls.insert(token.id);  // a spare piece that has got a name, as InternLM2's
  }
  return {std::make_shared<SentencepieceVocabulary>(pieces, std::move(controls)), pieces->model.bos_id(),
          pieces->model.eos_id()};
}

}  // namespace rankfold
