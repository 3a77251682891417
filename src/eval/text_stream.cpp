#include "eval/text_stream.h"

#include <algorithm>

namespace rankfold {
namespace {

// The longest end of the text that may become `stop`.
size_t begun(std::string_view text, std::string_view stop) {
  size_t size = std::min(text.size(), stop.size() - 1);
  while (!stop.starts_with(text.substr(text.size() - size))) --size;
  return size;
}

}  // namespace

std::string_view TextStream::add(const std::string& more) {
  held_ += more;
  ends_.push_back(text_.size() + held_.size());
  size_t certain = std::string::npos;
  for (const std::string& stop : stops_) certain = std::min(certain, held_.find(stop));
  is_stopped_ = certain != std::string::npos;
  if (!is_stopped_) {
    size_t open = 0;
    for (const std::string& stop : stops_) open = std::max(open, begun(held_, stop));
    certain = held_.size() - open;
  }
  const size_t before = text_.size();
  text_.append(held_, 0, certain);
  held_.erase(0, certain);
  return std::string_view(text_).substr(before);
}

std::string_view TextStream::finish() {
  if (is_stopped_) return {};
  const size_t before = text_.size();
  add(decoder_->finish());
  ends_.pop_back();
  if (!is_stopped_) text_ += held_;
  return std::string_view(text_).substr(before);
}

size_t TextStream::ids_within() const {
  auto end = std::upper_bound(ends_.begin(), ends_.end(), text_.size());
  // An id that gave no text may have begun a character that was cut.
  while (end != ends_.begin() && end[-1] == (end - 1 == ends_.begin() ? 0 : end[-2])) --end;
  return static_cast<size_t>(end - ends_.begin());
}

}  // namespace rankfold
