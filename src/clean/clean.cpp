#include "clean/clean.h"

#include "core/check.h"
#include "core/utf8.h"
#include "core/write.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace rankfold {
namespace {

std::string without_byte_order_marks(std::string_view text) {
  std::string rest(text);
  for (size_t at = 0; (at = rest.find(kByteOrderMark, at)) != std::string::npos;) rest.erase(at, kByteOrderMark.size());
  return rest;
}

// What stands between two rows, which is no part of a row.
std::string between(const RowFile& file, int64_t index) {
  std::string text = without_byte_order_marks(file.before(index));
  if (text.find_first_not_of(" \t\r\n,") != std::string::npos) fail(file.place(index - 1), ": a row of more than 4 GB");
  return text;
}

class RowWriter {
 public:
  RowWriter(const std::filesystem::path& path, const Stop& stop) : file_(path, stop) {}
  void add(std::string_view text) {
    constexpr size_t kPage = 1 << 20;
    buffer_ += text;
    if (buffer_.size() >= kPage) flush();
  }
  void commit() {
    flush();
    file_.commit();
  }

 private:
  void flush() {
    file_.write(std::string_view(buffer_));
    buffer_.clear();
  }
  AtomicFile file_;
  std::string buffer_;
};

}  // namespace

void refuse_another(const std::filesystem::path& target) {
  if (what_stands_at(target) != "nothing") fail(target.string(), ": is there: another program has just written it");
}

Cleaner::Cleaner(const std::filesystem::path& file, const DataFiles& heldout, const CheckConfig& config,
                 const Stop& stop)
    : file_(Mapping::open(file)), checksum_(checksum_of(*file_, stop)) {
  rows_.add(RowFile::open(file_, file.string()));
  const uint32_t training = rows_.size();
  rows_.add(heldout);
  CheckConfig wanted = config;
  wanted.remove.add(RowFinding::kBadRow);  // what cannot be read can be neither masked nor written
  wanted.remove.add(RowFinding::kWrongEncoding);
  checker_ = std::make_unique<Checker>(wanted, rows_, training);
}

CheckResult Cleaner::write(const std::filesystem::path& output, const Stop& stop, bool may_replace) {
  const RowFile& rows = rows_.files().front();
  const PersonalKinds mask = checker_->config().mask;
  RowWriter writer(output, stop);
  if (!may_replace) refuse_another(output);
  const auto add_around = [&](std::string_view text) {
    MaskedJson masked = mask_json(text, mask);
    std::erase_if(masked.hits, [](const PersonalHit& hit) { return hit.is_key; });
    masked_around_.insert(masked_around_.end(), masked.hits.begin(), masked.hits.end());
    writer.add(without_byte_order_marks(masked.text.empty() ? text : std::string_view(masked.text)));
  };
  masked_around_.clear();
  add_around(rows.before(0));
  int64_t kept = 0;
  CheckResult result = checker_->run(stop, [&](const RowFile& file, int64_t index, std::string_view text) {
    if (kept++ > 0) writer.add(between(file, index));
    writer.add(text);
  });
  if (kept == 0) {
    std::string reasons;
    for (const FindingWord& word : kFindingWords)
      if (const int64_t count = result.removed[static_cast<size_t>(word.finding)]; count > 0)
        reasons += join(reasons.empty() ? "" : ", ", count, " ", word.word);
    const ReadRow first = checker_->source().read(rows, 0);
    fail(rows.name(), ": nothing is left of ", result.rows, " rows: ", reasons,
         first.complaint.empty() ? "" : join("; the first: ", first.complaint));
  }
  add_around(rows.before(rows.size()));
  for (const PersonalHit& hit : masked_around_) ++result.masked[static_cast<size_t>(hit.kind)];
  if (checksum_of(*file_, stop) != checksum_) fail(rows.name(), ": changed while it was read");
  writer.commit();
  return result;
}

}  // namespace rankfold
