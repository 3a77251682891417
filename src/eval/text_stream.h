// The text of ids that come one by one, up to the first text that ends it.
#pragma once

#include "text/vocabulary.h"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

// Of one completion. One thread at a time.
class TextStream {
 public:
  // Both must outlive it. No stop may be empty.
  TextStream(const Vocabulary& vocabulary, const std::vector<std::string>& stops)
      : stops_(stops), decoder_(vocabulary.decoder(Controls::kHidden)) {}

  // What is now certain of the text: whole characters which begin no stop. Valid until the next call.
  std::string_view push(int32_t id) { return add(decoder_->push(id)); }
  std::string_view finish();  // the rest; once, after which no id follows
  bool is_stopped() const { return is_stopped_; }

  const std::string& text() const { return text_; }  // what was given out, after finish() all of it
  // So many of the first ids are those of text(), where a stop cut it: the last of them gave some of it.
  size_t ids_within() const;

 private:
  std::string_view add(const std::string& more);

  const std::vector<std::string>& stops_;
  std::unique_ptr<IncrementalDecoder> decoder_;
  std::string text_, held_;   // held: what may begin a stop
  std::vector<size_t> ends_;  // of the text after each id
  bool is_stopped_ = false;
};

}  // namespace rankfold
