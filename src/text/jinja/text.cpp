#include "text/jinja/text.h"

#include "text/unicode.h"

#include <algorithm>
#include <utility>

namespace rankfold::jinja {
namespace {

size_t first_run(const std::vector<Run>& runs, size_t position) {
  return static_cast<size_t>(
      std::upper_bound(runs.begin(), runs.end(), position, [](size_t at, const Run& run) { return at < run.end; }) -
      runs.begin());
}

}  // namespace

Text::Data::Data(std::string text, std::vector<Run> its_runs, bool safe)
    : charge(sizeof(Data) + text.size() + its_runs.size() * sizeof(Run)),
      bytes(std::move(text)),
      runs(std::move(its_runs)),
      length(unicode::count_characters(bytes)),
      is_safe(safe) {}

Text::Text(std::string bytes, std::vector<Run> runs, bool is_safe) {
  if (!bytes.empty() || is_safe) data_ = std::make_shared<const Data>(std::move(bytes), std::move(runs), is_safe);
}

Text::Text(std::string bytes, Mark mark) {
  if (bytes.empty()) return;
  std::vector<Run> runs = {{bytes.size(), mark}};
  data_ = std::make_shared<const Data>(std::move(bytes), std::move(runs), false);
}

const std::vector<Run>& Text::runs() const {
  static const std::vector<Run> none;
  return data_ ? data_->runs : none;
}

Text Text::as_safe(bool is_safe) const { return is_safe == this->is_safe() ? *this : Text(string(), runs(), is_safe); }

Mark Text::mark_at(size_t position) const {
  const size_t run = first_run(runs(), position);
  return run < runs().size() ? runs()[run].mark : Mark();
}

Text Text::slice(size_t begin, size_t end) const {
  end = std::min(end, size());
  if (begin >= end) return is_safe() ? Text(std::string(), {}, true) : Text();
  if (begin == 0 && end == size()) return *this;
  TextBuilder part;
  part.append(*this, begin, end);
  return part.build(is_safe());
}

size_t Text::position_of(size_t character) const {
  if (is_ascii()) return std::min(character, size());
  spend(size() / 32);
  return unicode::skip_characters(view(), character);
}

void TextBuilder::grow(size_t bytes) {
  const size_t needed = bytes_.size() + bytes;
  if (needed <= charged_) return;
  const size_t room = std::max(needed, std::min(2 * charged_, charged_ + (1 << 20)));
  charge_.add(room - charged_);
  charged_ = room;
}

void TextBuilder::append_bytes(std::string_view bytes, Mark mark) {
  if (bytes.empty()) return;
  grow(bytes.size());
  bytes_ += bytes;
  if (!runs_.empty() && runs_.back().mark == mark) {
    runs_.back().end = bytes_.size();
  } else {
    charge_.add(sizeof(Run));
    runs_.push_back({bytes_.size(), mark});
  }
}

void TextBuilder::append(const Text& text, size_t begin, size_t end) {
  const std::vector<Run>& runs = text.runs();
  for (size_t run = first_run(runs, begin); run < runs.size() && begin < end; ++run) {
    const size_t stop = std::min(end, runs[run].end);
    append(text.view().substr(begin, stop - begin), runs[run].mark);
    begin = stop;
  }
}

void TextBuilder::mark_generation(size_t begin, uint32_t generation) {
  const Text whole = build();
  append(whole, 0, begin);
  for (size_t run = first_run(whole.runs(), begin); run < whole.runs().size(); ++run) {
    const auto& [end, mark] = whole.runs()[run];
    append(whole.view().substr(begin, end - begin), {mark.origin, generation});
    begin = end;
  }
}

Text TextBuilder::build(bool is_safe) {
  charge_.release();
  charged_ = 0;
  return Text(std::exchange(bytes_, {}), std::exchange(runs_, {}), is_safe);
}

}  // namespace rankfold::jinja
