#include "data/token_store.h"

#include "core/check.h"
#include "core/json.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <string_view>
#include <type_traits>

namespace rankfold {
namespace {

// The file: words, rows, key, report, footer; docs/formats.md.
struct Footer {
  std::array<char, 8> magic = {'r', 'f', 't', 'o', 'k', 'e', 'n', '3'};
  uint64_t words = 0;
  uint64_t rows = 0;  // entries of rows_
  uint64_t key_size = 0;
  uint64_t report_size = 0;
  uint64_t fingerprint = 0;
  uint64_t checksum = 0;  // of all bytes before it
};
static_assert(std::is_trivially_copyable_v<Footer> && sizeof(Footer) == 7 * 8);
constexpr uint64_t kChecked = sizeof(Footer) - sizeof(Footer::checksum);

constexpr std::string_view kVersion2 = "rftoken2";  // which began a footer of this size
constexpr uint64_t kFooter2 = 96;

// The report as JSON: what is visited here is what is kept.
template <class Report, class Visit>
void visit(Report& report, const Visit& v) {
  v("rows", report.rows);
  v("truncated", report.truncated);
  v("dropped", report.dropped);
  v("without_labels", report.without_labels);
  v("bad", report.bad);
  v("longest", report.longest);
  v("cut_tokens", report.cut_tokens);
  v("unused", report.unused);
  v("spelled", report.spelled);
  v("questions", report.questions);
  v("conversations", report.conversations);
  v("without_end", report.without_end);
  v("left_out", report.left_out);
}

std::string text_of(const DatasetReport& report) {
  nlohmann::json json;
  visit(report, [&json](const char* name, const auto& value) {
    if constexpr (std::is_integral_v<std::remove_cvref_t<decltype(value)>>) {
      json[name] = value;
    } else {
      nlohmann::json& list = json[name] = nlohmann::json::array();
      for (const NameCount& count : value) list.push_back({count.name, count.rows});
    }
  });
  return json.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);  // a piece of a tokenizer may be any bytes
}

DatasetReport report_of(const std::string& text, const std::string& name) {
  const nlohmann::json json = parse_json(text, name);
  DatasetReport report;
  visit(report, [&json](const char* name, auto& value) {
    const nlohmann::json& kept = json.at(name);
    if constexpr (std::is_integral_v<std::remove_cvref_t<decltype(value)>>) {
      value = kept.get<int64_t>();
    } else {
      for (const nlohmann::json& count : kept)
        value.push_back({count.at(0).get<std::string>(), count.at(1).get<int64_t>()});
    }
  });
  return report;
}

}  // namespace

bool TokenStore::is_of_another_version(const std::filesystem::path& path) {
  const std::shared_ptr<const File> file = File::open(path);
  std::array<char, kVersion2.size()> magic = {};
  if (file->size() < kFooter2) return false;
  file->read(file->size() - kFooter2, std::as_writable_bytes(std::span(magic)));
  return std::string_view(magic.data(), magic.size()) == kVersion2;
}

TokenStore TokenStore::open(const std::filesystem::path& path, const std::string& key) {
  TokenStore store;
  store.file_ = File::open(path);
  const File& file = *store.file_;
  const auto damaged = [&path] { fail(path.string(), ": damaged"); };
  Footer footer;
  const auto magic = footer.magic;
  if (file.size() < sizeof footer) damaged();
  const uint64_t footer_at = file.size() - sizeof footer;
  file.read(footer_at, std::as_writable_bytes(std::span(&footer, 1)));
  // Each size by itself first: a sum of hostile ones may be right.
  for (const uint64_t part : {footer.words, footer.rows, footer.key_size, footer.report_size})
    if (part > footer_at) damaged();
  const uint64_t rows_at = footer.words * sizeof(uint32_t), key_at = rows_at + footer.rows * sizeof(uint64_t);
  const uint64_t report_at = key_at + footer.key_size;
  if (footer.magic != magic || report_at + footer.report_size != footer_at) damaged();

  const auto text_at = [&file](uint64_t begin, uint64_t size) {
    std::string text(size, '\0');
    file.read(begin, std::as_writable_bytes(std::span(text)));
    return text;
  };
  if (text_at(key_at, footer.key_size) != key) fail(path.string(), ": of other data or settings");
  if (checksum_of(file, footer_at + kChecked) != footer.checksum) damaged();

  store.rows_.resize(footer.rows);
  file.read(rows_at, std::as_writable_bytes(std::span(store.rows_)));
  const auto shares_a_word = [](uint64_t row, uint64_t next) { return next / 2 <= row / 2; };
  if (store.rows_.empty() || store.rows_.back() != 2 * footer.words ||
      std::adjacent_find(store.rows_.begin(), store.rows_.end(), shares_a_word) != store.rows_.end())
    damaged();
  store.summary_.fingerprint = footer.fingerprint;
  try {
    store.summary_.report = report_of(text_at(report_at, footer.report_size), path.string());
  } catch (const nlohmann::json::exception&) {  // of another shape
    damaged();
  }
  return store;
}

void TokenStore::read(uint64_t begin, std::span<uint32_t> words) const {
  if (file_) return file_->read(begin * sizeof(uint32_t), std::as_writable_bytes(words));
  while (!words.empty()) {
    const Words& page = pages_[begin / kPage];
    const size_t at = begin % kPage, count = std::min(words.size(), page.size() - at);
    std::copy_n(page.begin() + static_cast<std::ptrdiff_t>(at), count, words.begin());
    begin += count;
    words = words.subspan(count);
  }
}

TokenStore::Row TokenStore::row(int64_t index) const {
  const uint64_t entry = rows_.at(static_cast<size_t>(index)), next = rows_.at(static_cast<size_t>(index) + 1);
  const bool has_labels = entry & 1;
  const uint64_t words = next / 2 - entry / 2 - 1;
  return {entry / 2, entry / 2 + 1, has_labels ? words / 2 : words, has_labels};
}

int64_t TokenStore::length(int64_t index) const { return static_cast<int64_t>(row(index).length); }

int64_t TokenStore::number(int64_t index) const {
  uint32_t word = 0;
  read(row(index).number, std::span(&word, 1));
  return word;
}

Example TokenStore::operator[](int64_t index) const {
  const auto [number, begin, length, has_labels] = row(index);
  Words words(has_labels ? 2 * length : length);
  read(begin, words);
  Example example{.input_ids = std::vector<int32_t>(length), .labels = std::vector<int32_t>(length)};
  for (size_t i = 0; i < length; ++i) {
    const int32_t id = example.input_ids[i] = static_cast<int32_t>(words[i] & ~kLearnt);
    const int32_t own = words[i] & kLearnt ? id : static_cast<int32_t>(kIgnoreIndex);
    example.labels[i] = has_labels ? static_cast<int32_t>(words[length + i]) : own;
  }
  return example;
}

TokenWriter::TokenWriter(const std::filesystem::path& path, const std::string& key, const Stop& stop)
    : file_(std::in_place, path, stop), key_(key) {}

void TokenWriter::append(int64_t number, std::span<const int32_t> ids, std::span<const int32_t> labels) {
  put(static_cast<uint32_t>(number));
  bool has_labels = false;
  for (size_t i = 0; i < ids.size(); ++i) {
    put(static_cast<uint32_t>(ids[i]) | (labels[i] == ids[i] ? TokenStore::kLearnt : 0));
    has_labels |= labels[i] != ids[i] && labels[i] != kIgnoreIndex;
  }
  if (has_labels)
    for (const int32_t label : labels) put(static_cast<uint32_t>(label));
  store_.rows_.back() += has_labels;
  store_.rows_.push_back(2 * words_);
}

TokenStore TokenWriter::finish(const TokenStore::Summary& summary) {
  flush();
  store_.summary_ = summary;
  if (!file_) return std::move(store_);
  write(std::as_bytes(std::span(store_.rows_)));
  write(std::as_bytes(std::span(key_)));
  const std::string report = text_of(summary.report);
  write(std::as_bytes(std::span(report)));
  Footer footer{.words = words_,
                .rows = store_.rows_.size(),
                .key_size = key_.size(),
                .report_size = report.size(),
                .fingerprint = summary.fingerprint};
  const auto bytes = std::as_bytes(std::span(&footer, 1));
  write(bytes.first(kChecked));
  footer.checksum = checksum_;
  write(bytes.subspan(kChecked));
  // Opened before it has its name: under that another run may put a file of its own at any time.
  TokenStore store = TokenStore::open(file_->path(), key_);
  file_->commit();
  return store;
}

void TokenWriter::put(uint32_t word) {
  if (page_.empty()) page_.reserve(TokenStore::kPage);
  page_.push_back(word);
  ++words_;
  if (page_.size() == TokenStore::kPage) flush();
}

void TokenWriter::flush() {
  if (file_) {
    write(std::as_bytes(std::span(page_)));
    page_.clear();
  } else {
    page_.shrink_to_fit();
    store_.pages_.push_back(std::exchange(page_, {}));
  }
}

void TokenWriter::write(std::span<const std::byte> bytes) {
  checksum_ = checksum64(bytes, checksum_);
  file_->write(bytes);
}

}  // namespace rankfold
