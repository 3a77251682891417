// Decodes ids that come one by one into text, up to the first stop string.
#pragma once

#include "text/vocabulary.h"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

// The text of one completion. Not thread-safe.
class TextStream {
 public:
  // Vocabulary and stops must outlive the stream. No stop may be empty.
  TextStream(const Vocabulary& vocabulary, const std::vector<std::string>& stops)
      : stops_(stops), decoder_(vocabulary.decoder(Controls::kHidden)) {}

  // Adds an id and returns the text that is now certain: whole characters that cannot begin a stop. Valid until the
  // next call.
  std::string_view push(int32_t id) { return add(decoder_->push(id)); }
  std::string_view finish();  // returns the rest of the text; call it once, after the last id
  bool is_stopped() const { return is_stopped_; }

  const std::string& text() const { return text_; }  // all text returned so far; after finish() the whole text
  // The number of ids that text() needs, where a stop has cut it.
  size_t ids_within() const;

 private:
  std::string_view add(const std::string& more);

  const std::vector<std::string>& stops_;
  std::unique_ptr<IncrementalDecoder> decoder_;
  std::string text_, held_;   // held_: text that may begin a stop and is not returned yet
  std::vector<size_t> ends_;  // length of the text after each id
  bool is_stopped_ = false;
};

}  // namespace rankfold
