// A tokenizer, independent of its file format: text to ids, with the byte range of each id, and ids to text. Thread
// safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

// The longest prompt in bytes, and the longest text after the normaliser of a tokenizer.model. sentencepiece takes
// about 230 bytes of memory for each byte of the normalised text.
inline constexpr size_t kLongestText = 1 << 20;

// Files of a model folder that contain a vocabulary. tokenizer.json takes precedence, as in transformers.
inline constexpr const char *kTokenizerJson = "tokenizer.json", *kTokenizerModel = "tokenizer.model";

// The bytes [begin, end) of a text. Both are character boundaries.
struct TextRange {
  uint32_t begin = 0, end = 0;
  bool operator==(const TextRange&) const = default;
};

// The tokens of one text. Ranges are in the order of the text and cover it completely, with these exceptions:
// - Tokens that are parts of one character each have the range of the whole character.
// - Where normalisation composes characters, each token of the new character has the range of all of them.
// - A token of an inserted character (U+2581) has the range of the character that follows it.
// - Blanks that an added token includes (lstrip, rstrip) belong to that token.
struct Tokens {
  std::vector<int32_t> ids;
  std::vector<TextRange> ranges;  // one for each id
};

// A token that is searched for in the text before it is split into words.
struct AddedToken {
  int32_t id = -1;
  std::string text;
  bool special = false;
  bool single_word = false;  // found only without a letter or digit next to it
  bool lstrip = false;       // includes the blanks before it
  bool rstrip = false;       // includes the blanks after it
  bool normalized = false;   // searched for after normalisation
};

// Where a text comes from.
enum class Spelling {
  kAsFile,    // a chat template: all added tokens are recognised
  kUserText,  // a person: control tokens are never recognised, only their letters
};

// Decodes ids one at a time. push() returns only complete characters, so its result is valid UTF-8. All results
// together equal decode().
class IncrementalDecoder {
 public:
  virtual ~IncrementalDecoder() = default;
  virtual std::string push(int32_t id) = 0;
  virtual std::string finish() = 0;  // returns the rest and starts a new text
};

// Whether the text of control tokens appears in decoded text.
enum class Controls { kHidden, kShown };

class Vocabulary {
 public:
  virtual ~Vocabulary() = default;

  // Sets `tokens` to the tokens of a text, without those that belong before and after it. `users`: ranges that persons
  // wrote, sorted and disjoint. No token with bytes in them is a control token, except the one for unknown characters.
  // Throws UserError for text that is not UTF-8 or is too long. The limit is 8 MiB for a tokenizer.json. For a
  // tokenizer.model it is kLongestText divided by the largest growth of its normaliser. Time is proportional to the
  // text's length times the logarithm of the longest word's.
  virtual void encode(std::string_view text, std::span<const TextRange> users, Tokens& tokens) const = 0;
  void encode(std::string_view text, Spelling spelling, Tokens& tokens) const;
  Tokens encode(std::string_view text, Spelling spelling) const;

  // Returns a decoder, which must not outlive the vocabulary. Ids beyond the vocabulary have no text; a padded
  // embedding has such ids.
  virtual std::unique_ptr<IncrementalDecoder> decoder(Controls controls) const = 0;
  std::string decode(const std::vector<int32_t>& ids, Controls controls = Controls::kHidden) const;

  virtual std::string piece(int32_t id) const = 0;  // as in the file; empty: no such id
  virtual std::optional<int32_t> id_of(std::string_view piece) const = 0;
  virtual bool is_control(int32_t id) const = 0;  // special in the file, or added by with_control()
  virtual const std::vector<AddedToken>& added_tokens() const = 0;
  // 1 + the highest id. For a tokenizer.model, tokens of other files do not count.
  virtual int64_t size() const = 0;
  // Equal fingerprints give equal ids and ranges for every text.
  virtual uint64_t fingerprint() const = 0;

  // Ids to put before and after a text (bos, eos), according to the file; often none.
  virtual const std::vector<int32_t>& before() const = 0;
  virtual const std::vector<int32_t>& after() const = 0;

  // Returns the same vocabulary with more control tokens: eos, pad and ends of turn that other files name. It shares
  // memory with this one. Ids that every text needs, such as those of single bytes, are ignored. Throws UserError for
  // an id without a token.
  virtual std::shared_ptr<const Vocabulary> with_control(const std::vector<int32_t>& ids) const = 0;
};

// Whether any range has a byte in [begin, end). `ranges` are sorted and disjoint.
inline bool has_part_of(std::span<const TextRange> ranges, size_t begin, size_t end) {
  size_t low = 0, high = ranges.size();
  while (low < high) {  // the first that ends behind `begin`
    const size_t middle = (low + high) / 2;
    if (ranges[middle].end <= begin)
      low = middle + 1;
    else
      high = middle;
  }
  return low < ranges.size() && ranges[low].begin < end;
}

inline void Vocabulary::encode(std::string_view text, Spelling spelling, Tokens& tokens) const {
  const TextRange all{0, UINT32_MAX};
  encode(text, spelling == Spelling::kUserText ? std::span(&all, 1) : std::span<const TextRange>(), tokens);
}

inline Tokens Vocabulary::encode(std::string_view text, Spelling spelling) const {
  Tokens tokens;
  encode(text, spelling, tokens);
  return tokens;
}

inline std::string Vocabulary::decode(const std::vector<int32_t>& ids, Controls controls) const {
  const auto one = decoder(controls);
  std::string text;
  for (const int32_t id : ids) text += one->push(id);
  return text += one->finish();
}

}  // namespace rankfold
