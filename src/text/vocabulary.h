// A tokenizer, whatever file it was read from: text to ids with the bytes that each stands for, and back. Thread safe.
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

// Of one text, in bytes. sentencepiece takes some 230 bytes of memory for each byte of the text after its normaliser.
inline constexpr size_t kLongestText = 1 << 20;

// The files of a model folder that a vocabulary is read from; the first counts where both are there, as in
// transformers.
inline constexpr const char *kTokenizerJson = "tokenizer.json", *kTokenizerModel = "tokenizer.model";

// Bytes of a text, from `begin` to before `end`. Both lie between characters.
struct TextRange {
  uint32_t begin = 0, end = 0;
  bool operator==(const TextRange&) const = default;
};

// Of one text. Ranges are in the order of the text and leave nothing out, with these exceptions:
// - Tokens that are parts of one character all have the whole character.
// - Where normalising composes characters, each token of the new character has all that it was composed of.
// - A token of a character that was put in front (U+2581) has the character that follows it.
// - Blanks that an added token takes from beside it belong to that token.
struct Tokens {
  std::vector<int32_t> ids;
  std::vector<TextRange> ranges;  // as many
};

// Token that is looked for in the text itself, before it is cut into words.
struct AddedToken {
  int32_t id = -1;
  std::string text;
  bool special = false;
  bool single_word = false;  // found only where no letter or digit stands beside it
  bool lstrip = false;       // takes the blanks before it
  bool rstrip = false;       // and after it
  bool normalized = false;   // looked for after the text is normalised
};

// Whose text it is, all of it.
enum class Spelling {
  kAsFile,    // a chat template's: every added token that it spells
  kUserText,  // a person's: no control token, however it is spelt
};

// Text of ids that come one by one. Characters of which a part may still follow are held back, so what push() gives is
// UTF-8; put together it is what decode() gives.
class IncrementalDecoder {
 public:
  virtual ~IncrementalDecoder() = default;
  virtual std::string push(int32_t id) = 0;
  virtual std::string finish() = 0;  // what is held back; begins a new text
};

enum class Controls { kHidden, kShown };

class Vocabulary {
 public:
  virtual ~Vocabulary() = default;

  // Replaces what `tokens` holds by those of the text alone: what belongs before and after a text is not put there.
  // `users`: ranges that persons wrote, in order and apart from one another. No token that has bytes of them is a
  // control token but the one for unknown characters. Throws UserError for what is no UTF-8 or too long (kLongestText
  // is not); takes time in proportion to the text, times the logarithm of its longest word.
  virtual void encode(std::string_view text, std::span<const TextRange> users, Tokens& tokens) const = 0;
  void encode(std::string_view text, Spelling spelling, Tokens& tokens) const;
  Tokens encode(std::string_view text, Spelling spelling) const;

  // Ids beyond the vocabulary (a padded embedding has such) have no text. The decoder must not outlive the vocabulary.
  virtual std::unique_ptr<IncrementalDecoder> decoder(Controls controls) const = 0;
  std::string decode(const std::vector<int32_t>& ids, Controls controls = Controls::kHidden) const;

  virtual std::string piece(int32_t id) const = 0;  // as it stands in the file; empty for an id of none
  virtual std::optional<int32_t> id_of(std::string_view piece) const = 0;
  virtual bool is_control(int32_t id) const = 0;  // special in the file, or one of with_control()
  virtual const std::vector<AddedToken>& added_tokens() const = 0;
  virtual int64_t size() const = 0;  // 1 + the highest id; of a tokenizer.model, without the tokens of other files
  virtual uint64_t fingerprint() const = 0;  // where it is the same, so are the ids and ranges of every text

  // Ids that the file says belong before and after a text (bos, eos); often none.
  virtual const std::vector<int32_t>& before() const = 0;
  virtual const std::vector<int32_t>& after() const = 0;

  // The same vocabulary, where these tokens too are control tokens: eos, pad, ends of turn that other files name.
  // Shares its memory. An id that every text needs, as that of a single byte, is passed over. Throws UserError for an
  // id of no token.
  virtual std::shared_ptr<const Vocabulary> with_control(const std::vector<int32_t>& ids) const = 0;
};

// Whether any of the ranges has a byte of [begin, end).
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
